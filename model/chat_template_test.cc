#include "model/chat_template.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The shapes in which model families write ChatML.
constexpr char kLoopClause[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a test<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
constexpr char kElseClause[] =
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nIt\\'s \"me\".<|im_end|>\\n' }}{%- endif %}";
constexpr char kNoDefault[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST(ChatTemplateTest, DefaultSystemMessageIsFound) {
  EXPECT_EQ(ChatTemplate::Recognise(kLoopClause)->default_system, "You are a test");
  EXPECT_EQ(ChatTemplate::Recognise(kElseClause)->default_system, "It's \"me\".");
  EXPECT_EQ(ChatTemplate::Recognise(kNoDefault)->default_system, "");
}

TEST(ChatTemplateTest, DefaultSystemIsAddedOnlyWhereThereIsNone) {
  const ChatTemplate chat = *ChatTemplate::Recognise(kLoopClause);
  EXPECT_EQ(chat.Render(std::vector<ChatMessage>{{"user", "Hi"}}),
            "<|im_start|>system\nYou are a test<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.Render(std::vector<ChatMessage>{{"system", "S"}, {"user", "Hi"}, {"assistant", "Yo"}, {"user", "?"}}),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
            "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, UnknownTemplatesAreQuoted) {
  const absl::Status status = ChatTemplate::Recognise("{% if x %}<|user|>\n").status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("<|user|>"), HasSubstr("ChatML")));
  EXPECT_THAT(std::string(ChatTemplate::Recognise("").status().message()), HasSubstr("no chat template"));
}

TEST(ChatTemplateTest, BrokenLiteralsAreHarmless) {
  for (const char* text : {"<|im_start|><|im_end|>messages[0]'<|im_start|>system\n",
                           "messages[0]'<|im_start|><|im_end|>\\", "messages[0]<|im_start|><|im_end|>"}) {
    EXPECT_EQ(ChatTemplate::Recognise(text)->default_system, "") << text;
  }
}

}  // namespace
}  // namespace dogstar
