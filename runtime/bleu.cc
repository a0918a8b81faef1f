#include "runtime/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>

namespace dogstar {
namespace {

constexpr size_t kOrders = 4;
using Counts = std::map<std::vector<std::string>, int>;

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsWordByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         static_cast<unsigned char>(c) >= 0x80;
}

Counts CountGrams(const std::vector<std::string>& words, size_t order) {
  Counts counts;
  for (size_t i = 0; i + order <= words.size(); ++i) {
    const auto first = words.begin() + static_cast<std::ptrdiff_t>(i);
    ++counts[std::vector<std::string>(first, first + static_cast<std::ptrdiff_t>(order))];
  }
  return counts;
}

int SharedGrams(const Counts& text, const Counts& reference) {
  int shared = 0;
  for (const auto& [gram, count] : text) {
    const auto found = reference.find(gram);
    if (found != reference.end()) shared += std::min(count, found->second);
  }
  return shared;
}

}  // namespace

std::vector<std::string> BleuWords(std::string_view text) {
  std::vector<std::string> words;
  bool in_word = false;
  for (const char c : text) {
    if (IsWordByte(c) && in_word) {
      words.back() += c;
    } else if (!IsSpace(c)) {
      words.emplace_back(1, c);
    }
    in_word = IsWordByte(c);
  }
  return words;
}

double Bleu(std::string_view text, std::string_view reference) {
  const std::vector<std::string> words = BleuWords(text), expected = BleuWords(reference);
  if (words.empty() || expected.empty()) return words.empty() && expected.empty() ? 100 : 0;
  const size_t orders = std::min(kOrders, words.size());
  double log_sum = 0, smoothing = 1;
  for (size_t order = 1; order <= orders; ++order) {
    const int shared = SharedGrams(CountGrams(words, order), CountGrams(expected, order));
    if (shared == 0) smoothing *= 2;
    const double matches = shared > 0 ? shared : 1 / smoothing;
    log_sum += std::log(matches / static_cast<double>(words.size() - order + 1));
  }
  const double lengths = static_cast<double>(expected.size()) / static_cast<double>(words.size());
  return 100 * std::exp(log_sum / static_cast<double>(orders) + std::min(0.0, 1 - lengths));
}

}  // namespace dogstar
