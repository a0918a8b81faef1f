// Bytes of a GGUF file give an error or a right header, description and tokenizer.
#include "model/gguf_test_support.h"
#include "tests/fuzz/fuzz.h"

std::vector<std::string> FuzzSeeds() {
  dogstar::GgufBytes vocabulary;
  vocabulary.String("general.architecture", "unknown").Alignment(64);
  dogstar::AddTinyTokenizer(vocabulary);
  dogstar::GgufBytes pieces;
  pieces.String("general.architecture", "unknown")
      .String("tokenizer.ggml.model", "llama")
      .Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab", "\xe2\x96\x81"})
      .Float32s("tokenizer.ggml.scores", {0, 0, 0, 0, -3, -3, -1, -2})
      .Int32s("tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1, 1})
      .String("tokenizer.chat_template", "{{ '<start_of_turn>' }}");
  return {dogstar::TinyModel().File(), vocabulary.File(), pieces.File()};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dogstar::CheckAnyBytes({reinterpret_cast<const char*>(data), size});
  return 0;
}
