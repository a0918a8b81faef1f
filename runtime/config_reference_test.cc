#include "runtime/config_reference.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/config.h"

namespace dogstar {
namespace {

const std::string kSource = DOGSTAR_SOURCE_DIR;

std::string TextOf(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(ConfigReferenceTest, TheDocumentIsTheTables) {
  EXPECT_EQ(TextOf(kSource + "/docs/config.md"), ConfigReferenceMarkdown())
      << "build/release/dogstar config --markdown > docs/config.md";
}

TEST(ConfigReferenceTest, EveryKeyHasAMeaningAndStandsOnce) {
  std::set<std::string_view> names;
  for (const ConfigKey& key : ConfigKeys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_FALSE(key.meaning.empty() || key.allowed.empty()) << key.name;
  }
}

// Each file parses, says what it is for, and is explained in docs/tuning.md.
TEST(ConfigReferenceTest, ReadyConfigurationsAreValidAndExplained) {
  const std::string tuning = TextOf(kSource + "/docs/tuning.md");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kSource + "/configs")) {
    ++files;
    Config config;
    const absl::Status status = ReadYamlConfigFile(entry.path().string(), &config);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(TextOf(entry.path().string()).front(), '#') << entry.path();
    EXPECT_THAT(tuning, testing::HasSubstr("configs/" + entry.path().filename().string()));
    EXPECT_TRUE(config.budget.ram.has_value()) << entry.path();
  }
  EXPECT_GE(files, 5);
}

}  // namespace
}  // namespace dogstar
