// Runs a fuzz target without libFuzzer: the same inputs in every run, so that a finding can be repeated.
//
//   fuzz_NAME [--seconds S] [--flips N] [--seed K] [FILE or FOLDER]...
//
// Inputs: every seed as it is, every prefix of it, then N mutations in all (default 10,000): 1 to 8 bytes changed,
// a range cut, doubled or zeroed, or a length field set to an extreme. It stops early after S seconds (0: no limit) and
// says how far it came. An input that crashes the target, or takes longer than 10 s, is written to NAME-crash.bin.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "tests/fuzz/fuzz.h"

// There in sanitizer builds: called before the process ends with a report.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace dogstar {
namespace {

constexpr int kInputSecondsMax = 10;

// What the signal handler needs; only async-signal-safe calls touch it there.
const uint8_t* current_data = nullptr;
size_t current_size = 0;
char crash_path[256] = "crash.bin";

void SaveInput() {
  const int file = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  for (size_t done = 0; done < current_size;) {
    const ssize_t written = write(file, current_data + done, current_size - done);
    if (written <= 0) break;
    done += static_cast<size_t>(written);
  }
  close(file);
}

void Say(std::string_view text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void OnSignal(int number) {
  SaveInput();
  Say(number == SIGALRM ? "fuzz: the input took too long; written to " : "fuzz: the target crashed; input written to ");
  Say({crash_path, std::strlen(crash_path)});
  Say("\n");
  std::signal(number == SIGALRM ? SIGABRT : number, SIG_DFL);
  std::raise(number == SIGALRM ? SIGABRT : number);
}

// A copy of exactly the input's size on the heap: a read past its end is seen by AddressSanitizer.
void RunInput(std::string_view input) {
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[input.size()]);
  std::copy(input.begin(), input.end(), copy.get());
  current_data = copy.get();
  current_size = input.size();
  alarm(kInputSecondsMax);
  LLVMFuzzerTestOneInput(copy.get(), input.size());
  alarm(0);
  current_size = 0;
}

std::string Mutate(std::string input, SplitMix64* random) {
  const auto below = [random](size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(random->Next() % limit); };
  if (input.empty()) return std::string(1, static_cast<char>(random->Next()));
  switch (random->Next() % 8) {
    case 0: {  // cut a range
      const size_t begin = below(input.size());
      input.erase(begin, 1 + below(64));
      break;
    }
    case 1: {  // double a range
      const size_t begin = below(input.size());
      const std::string range = input.substr(begin, 1 + below(64));
      input.insert(begin, range);
      break;
    }
    case 2: {  // an extreme number where a length may be
      constexpr std::array<uint64_t, 6> kExtremes = {
          0, 0x7fffffff, 0xffffffff, uint64_t{1} << 32, 0x7fffffffffffffff, ~uint64_t{0}};
      const uint64_t value = kExtremes[below(kExtremes.size())];
      const size_t begin = below(input.size());
      std::memcpy(input.data() + begin, &value, std::min(input.size() - begin, below(2) == 0 ? size_t{4} : size_t{8}));
      break;
    }
    case 3: {  // zero a range
      const size_t begin = below(input.size());
      std::memset(input.data() + begin, 0, std::min(input.size() - begin, 1 + below(64)));
      break;
    }
    default:  // change bytes
      for (size_t count = 1 + below(8); count > 0; --count) {
        input[below(input.size())] = static_cast<char>(random->Next());
      }
  }
  return input;
}

void ReadSeeds(const std::filesystem::path& path, std::vector<std::string>* seeds) {
  if (std::filesystem::is_directory(path)) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files) ReadSeeds(file, seeds);
    return;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "fuzz: cannot read %s\n", path.c_str());
    std::exit(2);
  }
  seeds->emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

int Main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  uint64_t seconds = 0;
  uint64_t flips = 10000;
  uint64_t seed = 1;
  std::vector<std::string> seeds;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    uint64_t* number = argument == "--seconds" ? &seconds
                       : argument == "--flips" ? &flips
                       : argument == "--seed"  ? &seed
                                               : nullptr;
    if (number == nullptr) {
      ReadSeeds(argument, &seeds);
      continue;
    }
    const std::string_view value = i + 1 < argc ? argv[++i] : "";
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *number);
    if (error != std::errc() || end != value.data() + value.size() || value.empty()) {
      std::fprintf(stderr, "fuzz: %s needs a number\n", std::string(argument).c_str());
      return 2;
    }
  }
  if (FuzzSeeds != nullptr) {
    for (std::string& made : FuzzSeeds()) seeds.push_back(std::move(made));
  }
  const std::string name = std::filesystem::path(argv[0]).filename();
  std::snprintf(crash_path, sizeof(crash_path), "%s-crash.bin", name.c_str());
  std::signal(SIGALRM, OnSignal);
  std::signal(SIGABRT, OnSignal);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(SaveInput);  // the sanitizer reports the other signals itself
  } else {
    for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(number, OnSignal);
  }

  const auto start = Clock::now();
  const auto out_of_time = [&] { return seconds > 0 && Clock::now() - start > std::chrono::seconds(seconds); };
  uint64_t prefixes = 0;
  uint64_t prefixes_total = 0;
  for (const std::string& input : seeds) prefixes_total += input.size();
  RunInput("");
  for (const std::string& input : seeds) RunInput(input);
  // Short prefixes of every seed come first, so that a time limit cuts the long ones. They get half of the time.
  const auto half_time = [&] { return seconds > 0 && Clock::now() - start > std::chrono::milliseconds(seconds * 500); };
  size_t longest = 0;
  for (const std::string& input : seeds) longest = std::max(longest, input.size());
  for (size_t size = 0; size < longest && !half_time(); ++size) {
    for (const std::string& input : seeds) {
      if (size >= input.size()) continue;
      RunInput(std::string_view(input).substr(0, size));
      ++prefixes;
    }
  }
  if (seeds.empty()) seeds.emplace_back();
  SplitMix64 random(seed);
  uint64_t mutations = 0;
  for (; mutations < flips && !out_of_time(); ++mutations) {
    std::string input = seeds[random.Next() % seeds.size()];
    for (uint64_t rounds = 1 + random.Next() % 3; rounds > 0; --rounds) input = Mutate(std::move(input), &random);
    RunInput(input);
  }
  std::printf("%s: %zu seeds, %llu of %llu prefixes, %llu of %llu mutations (seed %llu): no crash\n", name.c_str(),
              seeds.size(), static_cast<unsigned long long>(prefixes), static_cast<unsigned long long>(prefixes_total),
              static_cast<unsigned long long>(mutations), static_cast<unsigned long long>(flips),
              static_cast<unsigned long long>(seed));
  return 0;
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) { return dogstar::Main(argc, argv); }
