// The program as a user meets it: bad input gets a clear error and exit code, good input gives what was asked for.
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <numeric>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "nlohmann/json.hpp"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing_support::TestFolder;

struct ProgramOutput {
  int exit_code = 0;
  std::string out;  // standard output
  std::string err;
};

ProgramOutput RunProgram(const TestFolder& folder, const std::string& arguments) {
  const std::string err_path = folder.Path("stderr.txt");
  const std::string command = std::string(DOGSTAR_PROGRAM) + " " + arguments + " 2>" + err_path;
  ProgramOutput output;
  std::FILE* pipe = popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) output.out.append(buffer, got);
  const int status = pclose(pipe);
  output.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ifstream err(err_path);
  output.err.assign(std::istreambuf_iterator<char>(err), {});
  return output;
}

class ProgramTest : public testing::Test {
 protected:
  void SetUp() override { model_ = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false); }
  void WriteFile(const std::string& name, const std::string& content) {
    std::ofstream(folder_.Path(name), std::ios::binary) << content;
  }
  // Runs with a prompt; expects a failure whose message has all of `parts`.
  void ExpectRefused(const std::string& arguments, int exit_code, const std::vector<std::string>& parts) {
    const ProgramOutput output = RunProgram(folder_, "run -p hello -n 4 " + arguments);
    EXPECT_EQ(output.exit_code, exit_code) << output.err;
    for (const std::string& part : parts) EXPECT_THAT(output.err, HasSubstr(part)) << arguments;
  }

  TestFolder folder_;
  std::string model_;
};

TEST_F(ProgramTest, ABatchFileHasATextForEachPromptInOrder) {
  WriteFile("prompts.txt", "hello\n\n  \nanother one\r\nlast");
  const std::string common = "-m " + model_ + " -n 4 --ignore-eos --json ";
  const ProgramOutput batch =
      RunProgram(folder_, "run " + common + "--parallel 2 --batch-file " + folder_.Path("prompts.txt"));
  ASSERT_EQ(batch.exit_code, 0) << batch.err;
  std::istringstream lines(batch.out);
  std::vector<nlohmann::json> texts;
  for (std::string line; std::getline(lines, line);) texts.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(texts.size(), 3U);
  const std::vector<std::pair<int, std::string>> prompts = {{1, "hello"}, {4, "another one"}, {5, "last"}};
  for (size_t i = 0; i < prompts.size(); ++i) {
    const ProgramOutput alone = RunProgram(folder_, "run " + common + "-p '" + prompts[i].second + "'");
    EXPECT_EQ(texts[i]["line"], prompts[i].first);
    EXPECT_EQ(texts[i]["tokens"], nlohmann::json::parse(alone.out)["tokens"]);
  }
  EXPECT_THAT(batch.err, HasSubstr("3 texts, 12 tok"));
}

TEST_F(ProgramTest, ABatchFileThatCannotRunIsNamedWithItsLine) {
  WriteFile("none.txt", "\n \n");
  WriteFile("long.txt", "hello\nhello hello hello hello hello hello hello\n");
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const ProgramOutput output = RunProgram(folder_, "run -m " + model_ + " -n 4 " + arguments);
    EXPECT_EQ(output.exit_code, 1) << output.err;
    EXPECT_THAT(output.err, HasSubstr(part));
  };
  refused("--batch-file " + folder_.Path("none.txt"), "has no prompts");
  refused("--batch-file " + folder_.Path("missing.txt"), "missing.txt");
  refused("--batch-file " + folder_.Path("long.txt") + " -c 10", "long.txt:2: the prompt has");
  refused("--batch-file " + folder_.Path("long.txt") + " --explain", "--explain follows one text");
}

TEST_F(ProgramTest, FilesThatAreNoModelsAreNamed) {
  WriteFile("empty.gguf", "");
  WriteFile("text.gguf", "this is no model at all, whatever its name says");
  ExpectRefused(folder_.Path("absent.gguf"), 1, {"absent.gguf", "No such file"});
  ExpectRefused(folder_.Path("."), 1, {"directory"});
  ExpectRefused(folder_.Path("empty.gguf"), 1, {"empty.gguf"});
  ExpectRefused(folder_.Path("text.gguf"), 1, {"text.gguf", "GGUF"});
}

TEST_F(ProgramTest, AnUnknownArchitectureIsNamed) {
  const std::string path = folder_.Path("other.gguf");
  GgufWriter writer = GgufWriter::Create(path, 32).value();
  writer.AddString("general.architecture", "teapot");
  ASSERT_TRUE(writer.AddTensor("token_embd.weight", 0, {32, 2}).ok());
  ASSERT_TRUE(writer.BeginData().ok());
  ASSERT_TRUE(writer.WriteData(std::vector<std::byte>(32 * 2 * 4)).ok());
  ASSERT_TRUE(writer.EndTensor().ok());
  ASSERT_TRUE(writer.Finish().ok());
  ExpectRefused(path, 1, {"teapot", "llama"});
}

TEST_F(ProgramTest, ABudgetTooSmallNamesTheSmallestAndThatOneWorks) {
  const ProgramOutput refused = RunProgram(folder_, "run " + model_ + " -p hello -n 4 --mode dense --ram 2MiB");
  EXPECT_EQ(refused.exit_code, 1);
  const std::string marker = "the smallest that works is ";
  const size_t at = refused.err.find(marker);
  ASSERT_NE(at, std::string::npos) << refused.err;
  const double mib = std::strtod(refused.err.c_str() + at + marker.size(), nullptr);
  const std::string budget = std::to_string(static_cast<int>(mib * 1024 + 1)) + "KiB";
  const ProgramOutput output =
      RunProgram(folder_, "run " + model_ + " -p hello -n 4 --mode dense --json --ram " + budget);
  EXPECT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  EXPECT_LE(json["peak_rss_bytes"].get<uint64_t>(), json["budget_bytes"].get<uint64_t>());
}

TEST_F(ProgramTest, APromptLongerThanTheContextIsRefused) { ExpectRefused(model_ + " -c 3", 1, {"context", "3"}); }

TEST_F(ProgramTest, ConfigurationMistakesNameFileLineAndKey) {
  WriteFile("bad.yaml", "threads: 1\ncorector: {period: 4}\n");
  ExpectRefused(model_ + " --config " + folder_.Path("bad.yaml"), 1,
                {"bad.yaml:2:", "corector.period", "corrector.period"});
  ExpectRefused(model_ + " --set corrector.period=0", 1, {"corrector.period", "1 to 256"});
  ExpectRefused(model_ + " --ram lots", 1, {"budget.ram", "lots"});
  ExpectRefused(model_ + " --no-such-option", 2, {"no-such-option"});
}

TEST_F(ProgramTest, InvalidUtf8InAPromptIsTakenAsBytes) {
  WriteFile("prompt.txt", "caf\xc3 \xff\xfe end");
  const ProgramOutput output = RunProgram(folder_, "run " + model_ + " -n 4 --json -f " + folder_.Path("prompt.txt"));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_TRUE(nlohmann::json::accept(output.out)) << output.out;
}

TEST_F(ProgramTest, JsonHasTheNamedFieldsAndNothingElseIsOnStandardOutput) {
  const ProgramOutput output =
      RunProgram(folder_, "run " + model_ + " -p hello -n 5 --ignore-eos --mode strict --period 4 --json --logprobs 3");
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  for (const char* name : {"text", "tokens", "prompt_tokens", "prompt_tok_s", "decode_tok_s", "decode_s", "cycles",
                           "accepted_mean", "density", "effective_density", "disk_bytes", "decode_disk_bytes",
                           "disk_gb_s", "h2d_bytes", "peak_rss_bytes", "budget_bytes", "fast_tier_hit_rate"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  EXPECT_EQ(json["tokens"].size(), 5U);
  EXPECT_GE(json["memory"]["generated text"].get<uint64_t>(), 5 * (sizeof(int32_t) + 3 * 16));
  ASSERT_EQ(json["logprobs"].size(), 5U);
  EXPECT_EQ(json["logprobs"][0].size(), 3U);
  EXPECT_EQ(json["logprobs"][0][0]["id"], json["tokens"][0]);
}

TEST_F(ProgramTest, APlainModelUnderABudgetIsPackedOnceBesideTheFile) {
  const std::string plain = testing_support::WriteTinyModel(folder_, QuantType::kQ4_1, true);
  const std::string run = "run " + plain + " -p hello -n 4 --mode strict --ram 24MiB --json";
  const ProgramOutput first = RunProgram(folder_, run), second = RunProgram(folder_, run);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(first.err, HasSubstr("packing"));
  EXPECT_THAT(second.err, testing::Not(HasSubstr("packing")));
  EXPECT_EQ(nlohmann::json::parse(first.out)["tokens"], nlohmann::json::parse(second.out)["tokens"]);
}

TEST_F(ProgramTest, ADamagedPageIsFoundByItsChecksum) {
  const GgufHeader header = ReadGgufHeader(model_).value();
  const GgufTensor* pages = header.FindTensor("blk.1.ffn_pages");
  ASSERT_NE(pages, nullptr);
  std::fstream file(model_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(pages->offset + 1000));
  file.put('\x5a').put('\xa5').put('\x77');
  file.close();
  ExpectRefused(model_, 1, {"checksum", model_});
}

TEST_F(ProgramTest, EvalMeasuresPerplexityAndAgreement) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "The " + std::to_string(i * 37) + "th sentence says little. ";
  WriteFile("text.txt", text);
  const std::string plain = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, true);
  const ProgramOutput output =
      RunProgram(folder_, "eval " + plain + " -f " + folder_.Path("text.txt") + " -c 64 --chunks 3 --json");
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  EXPECT_EQ(json["chunks"], 3);
  EXPECT_EQ(json["tokens"], 3 * (64 - 1 - 32));
  EXPECT_GT(json["perplexity"].get<double>(), 2);
  const ProgramOutput agreement = RunProgram(
      folder_, "eval " + model_ + " --task agreement --predictor dense -f " + folder_.Path("text.txt") + " --json");
  ASSERT_EQ(agreement.exit_code, 0) << agreement.err;
  const nlohmann::json same = nlohmann::json::parse(agreement.out);
  EXPECT_EQ(same["agreement"], 1.0);  // the draft is the full model itself
  EXPECT_EQ(same["kl"], 0.0);
  const ProgramOutput sparse = RunProgram(folder_, "eval " + model_ +
                                                       " --task agreement --predictor griffin "
                                                       "--density 0.2 -f " +
                                                       folder_.Path("text.txt") + " --json");
  ASSERT_EQ(sparse.exit_code, 0) << sparse.err;
  EXPECT_GT(nlohmann::json::parse(sparse.out)["kl"].get<double>(), 0);
  const ProgramOutput small = RunProgram(folder_, "eval " + plain + " -f " + folder_.Path("text.txt") + " -c 100000");
  EXPECT_EQ(small.exit_code, 1);
  EXPECT_THAT(small.err, HasSubstr("windows of 100000"));
}

TEST_F(ProgramTest, AssumedAcceptanceIsSaidAndCountsTokensOfACycle) {
  const std::string command =
      "run " + model_ + " -p hello -n 13 --ignore-eos --period 6 --set corrector.adaptive=false";
  const ProgramOutput output = RunProgram(folder_, command + " --mode strict --assume-accepted 4 --explain --json");
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  EXPECT_EQ(json["assumed_accepted"], 4);
  EXPECT_EQ(json["accepted_mean"], 4.0);
  EXPECT_EQ(json["cycles"], 3);
  ASSERT_EQ(json["accepted_by_position"].size(), 4U);  // three that stood, one that did not
  EXPECT_EQ(json["accepted_by_position"][2], 1.0);
  EXPECT_EQ(json["accepted_by_position"][3], 0.0);
  EXPECT_THAT(output.err, HasSubstr("[3] 3 of"));
  const ProgramOutput people = RunProgram(folder_, command + " --mode strict --assume-accepted 4");
  EXPECT_THAT(people.err, HasSubstr("ASSUMED"));
  const ProgramOutput dense = RunProgram(folder_, command + " --mode dense --assume-accepted 4");
  EXPECT_EQ(dense.exit_code, 1);
  EXPECT_THAT(dense.err, testing::AllOf(HasSubstr("strict or sirius"), HasSubstr("dense")));
  const ProgramOutput measured = RunProgram(folder_, command + " --mode strict --json");
  EXPECT_FALSE(nlohmann::json::parse(measured.out).contains("assumed_accepted"));
}

TEST_F(ProgramTest, SparsityIsATableOfMethodsAndDensities) {
  WriteFile("text.txt", std::string(150, 'a') + " a text of some length that nobody needs to read");
  WriteFile("prompts.txt", "hello\n{\"question\": \"what?\"}\n\n{\"prompt\": \"third\"}\n");
  const std::string command = "eval " + model_ + " --task sparsity -f " + folder_.Path("text.txt") +
                              " --prompt-tokens 32 --max-tokens 64 --new-tokens 12 --prompt-count 2";
  const ProgramOutput output = RunProgram(
      folder_, command + " --methods gate,contribution,random,lag,oracle --densities 1,0.25 --json --prompts " +
                   folder_.Path("prompts.txt") + " --csv " + folder_.Path("table.csv"));
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  ASSERT_EQ(json["cells"].size(), 10U);
  for (const nlohmann::json& cell : json["cells"]) {
    const bool is_bound = cell["method"] == "oracle";
    EXPECT_EQ(cell["oracle"], is_bound || cell["method"] == "contribution");
    // What tokens touch between them holds what one touches, and that holds what its neighbour did not.
    EXPECT_GE(cell["resident_bytes"].get<double>() * 1.0001, cell["touched_bytes"].get<double>());
    EXPECT_GE(cell["touched_bytes"].get<double>() * 1.0001, cell["fetched_bytes"].get<double>());
    EXPECT_NEAR(cell["touched_bytes"].get<double>() / cell["ffn_bytes"].get<double>(), cell["read_share"], 0.02);
    if (is_bound || cell["density"] == 1) {
      EXPECT_NEAR(cell["recall"].get<double>(), 1, 1e-3) << cell["method"];
    }
    if (is_bound) {
      EXPECT_TRUE(cell["strict_accepted_mean"].is_null());
      continue;
    }
    EXPECT_EQ(cell["strict_differences"], 0);
    EXPECT_GE(cell["strict_accepted_mean"].get<double>(), 1);
    EXPECT_GE(cell["read_share"].get<double>(), cell["used_density"].get<double>());
    if (cell["density"] == 1) {  // all rows: the draft is the full model
      EXPECT_EQ(cell["kl"], 0.0);
      EXPECT_EQ(cell["bleu"], 100.0);
      EXPECT_EQ(cell["used_density"], 1.0);
      EXPECT_GT(cell["strict_accepted_mean"].get<double>(), 5);  // 11 tokens in two passes
    } else {
      EXPECT_NEAR(cell["used_density"].get<double>(), 0.25, 0.01);
      EXPECT_GT(cell["kl"].get<double>(), 0);
    }
  }
  std::ifstream csv(folder_.Path("table.csv"));
  std::string line;
  int lines = 0;
  while (std::getline(csv, line)) lines += line.empty() ? 0 : 1;
  EXPECT_EQ(lines, 11);
  WriteFile("bad.txt", "{\"text\": 1}\n");
  const ProgramOutput bad = RunProgram(folder_, command + " --prompts " + folder_.Path("bad.txt"));
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, testing::AllOf(HasSubstr("bad.txt:1"), HasSubstr("\"question\"")));
}

// Sensitivities come from text that is not scored, and the mean density is kept.
TEST_F(ProgramTest, SparsityDividesRowsAmongLayers) {
  WriteFile("text.txt", std::string(150, 'a') + " a text of some length that nobody needs to read");
  const std::string command = "eval " + model_ + " --task sparsity -f " + folder_.Path("text.txt") +
                              " --prompt-tokens 16 --methods gate --densities 0.6 --by-layer --json";
  const ProgramOutput output = RunProgram(folder_, command + " --max-tokens 48");
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json cells = nlohmann::json::parse(output.out)["cells"];
  ASSERT_EQ(cells.size(), 2U);
  EXPECT_FALSE(cells[0]["by_layer"].get<bool>());
  EXPECT_TRUE(cells[1]["by_layer"].get<bool>());
  const auto densities = cells[1]["layer_densities"].get<std::vector<double>>();
  ASSERT_EQ(densities.size(), 4U);
  EXPECT_NEAR(std::accumulate(densities.begin(), densities.end(), 0.0), 4 * 0.6, 1e-9);
  EXPECT_NE(densities, std::vector<double>(4, 0.6));  // steps of a quarter: some layer has more than another
  EXPECT_NEAR(cells[1]["used_density"].get<double>(), 0.6, 0.001);
  EXPECT_NE(cells[1]["kl"], cells[0]["kl"]);
  const ProgramOutput longer = RunProgram(folder_, command + " --max-tokens 1024");
  EXPECT_EQ(longer.exit_code, 1);
  EXPECT_THAT(longer.err, testing::AllOf(HasSubstr("--by-layer needs 64"), HasSubstr("--max-tokens")));
}

TEST_F(ProgramTest, SamplingOptionsAreChecked) {
  ExpectRefused(model_ + " --logit-bias 5", 1, {"sampling.bias", "15043"});
  ExpectRefused(model_ + " --min-p 2", 1, {"sampling.min_p", "0 to 1"});
  ExpectRefused(model_ + " --kv-type q2", 1, {"kv_type", "q8_0"});
  const ProgramOutput output = RunProgram(folder_, "run " + model_ +
                                                       " -p hello -n 4 --ignore-eos --json "
                                                       "--kv-type q8_0 --logit-bias 65+1000 --logit-bias 66-inf");
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(nlohmann::json::parse(output.out)["tokens"], nlohmann::json({65, 65, 65, 65}));
}

TEST_F(ProgramTest, ChatTakesLinesCommandsAndSavedTalks) {
  WriteFile("lines.txt", "Hello\\\nworld\n/system Be brief\n/teapot\nHi\n/regen\n/save " + folder_.Path("talk.json") +
                             "\n/undo\n/load " + folder_.Path("absent.json") + "\n/load " + folder_.Path("talk.json") +
                             "\nAgain\n");
  const std::string chat = "chat " + model_ + " -n 4 -t 1 ";
  const ProgramOutput refused = RunProgram(folder_, chat + "< " + folder_.Path("lines.txt"));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("no chat template"), HasSubstr("--chat-template")));
  const ProgramOutput output = RunProgram(folder_, chat + "--chat-template chatml < " + folder_.Path("lines.txt"));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, AllOf(HasSubstr("unknown command /teapot"), HasSubstr("absent.json"), HasSubstr("4 tok")));
  std::ifstream file(folder_.Path("talk.json"));
  const nlohmann::json talk = nlohmann::json::parse(file);
  ASSERT_EQ(talk.size(), 3U);
  EXPECT_EQ(talk[0]["content"], "Be brief");
  EXPECT_EQ(talk[1]["content"], "Hi");
  EXPECT_EQ(talk[2]["role"], "assistant");
}

TEST_F(ProgramTest, AStopStringEndsTheOutput) {
  const std::string run = "run " + model_ + " -p hello -n 8 --ignore-eos --json --logit-bias 65+1000 ";
  const nlohmann::json all = nlohmann::json::parse(RunProgram(folder_, run).out);
  const std::string text = all["text"];
  ASSERT_EQ(text, std::string(8, text[0]));
  const nlohmann::json stopped =
      nlohmann::json::parse(RunProgram(folder_, run + "--stop '" + text.substr(0, 3) + "'").out);
  EXPECT_EQ(stopped["text"], "");
  EXPECT_EQ(stopped["stop"], "stop");
  EXPECT_EQ(stopped["tokens"].size(), 3U);
}

TEST_F(ProgramTest, PlanSaysWhatStaysAndWhichBudgetsMeanSomething) {
  const ProgramOutput plain = RunProgram(folder_, "plan " + model_ + " -c 64 --json");
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  const nlohmann::json plan = nlohmann::json::parse(plain.out);
  EXPECT_FALSE(plan["placement"].empty());
  uint64_t smallest = 0;
  for (const nlohmann::json& budget : plan["budgets"]) {
    if (budget["name"] == "smallest") smallest = budget["budget_bytes"];
    EXPECT_GT(budget["dense_s"], 0);
  }
  ASSERT_GT(smallest, 0u);
  EXPECT_EQ(plan["budgets"][0]["complement_bytes"], 0);
  const ProgramOutput text = RunProgram(folder_, "plan " + model_ + " -c 64 --ram 1MiB");
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_THAT(text.err, HasSubstr("smallest that works"));
  EXPECT_THAT(RunProgram(folder_, "plan " + model_ + " -c 64").out, AllOf(HasSubstr("sensible"), HasSubstr("ring")));
}

TEST_F(ProgramTest, ProbeWritesFiguresThatPlanUses) {
  const std::string tiers = folder_.Path("made/tiers.json");
  const std::string of_device = " --vram 16MiB --set device=simulated:4GiB";
  const ProgramOutput measured = RunProgram(folder_, "probe --quick -t 1 --json -o " + tiers + of_device);
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  EXPECT_EQ(nlohmann::json::parse(measured.out)["devices"][0]["name"], "simulated:4GiB");
  const ProgramOutput probe = RunProgram(folder_, "probe --quick -t 1 --json -o " + tiers);
  ASSERT_EQ(probe.exit_code, 0) << probe.err;
  EXPECT_GT(nlohmann::json::parse(probe.out)["memory_bytes_per_second"], 1e8);
  const ProgramOutput plan = RunProgram(folder_, "plan " + model_ + " --json --set tiers=" + tiers);
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(nlohmann::json::parse(plan.out)["kernels_measured"], true);
  EXPECT_EQ(nlohmann::json::parse(plan.out)["disk_measured"], false);
  // The device's figures are still there.
  const ProgramOutput text = RunProgram(folder_, "plan " + model_ + " -c 64 --set tiers=" + tiers + of_device);
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("on the device"), HasSubstr("kernels (measured")));
  // Without a GPU a plan for one rests on assumptions, and says so.
  EXPECT_THAT(RunProgram(folder_, "plan " + model_ + " -c 64 --vram 1GiB --set tiers=" + tiers).out,
              HasSubstr("ASSUMED: a GPU"));
  // A file too small to say anything of its disk is refused, not believed.
  EXPECT_THAT(RunProgram(folder_, "probe --quick -o " + tiers + " " + model_).err, HasSubstr("at least 64.0 MiB"));
  WriteFile("broken.json", "{\"version\": 1}");
  ExpectRefused(model_ + " --set tiers=" + folder_.Path("broken.json"), 1, {"broken.json", "dogstar probe"});
}

}  // namespace
}  // namespace dogstar
