#include "base/units.h"

#include <array>

#include "fmt/format.h"

namespace dogstar {
namespace {

struct Unit {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<Unit, 10> kUnits = {{
    {"", 1},
    {"b", 1},
    {"kib", uint64_t{1} << 10},
    {"mib", uint64_t{1} << 20},
    {"gib", uint64_t{1} << 30},
    {"tib", uint64_t{1} << 40},
    {"kb", 1'000},
    {"mb", 1'000'000},
    {"gb", 1'000'000'000},
    {"tb", 1'000'000'000'000},
}};

absl::Status BadSize(std::string_view text, std::string_view reason) {
  return absl::InvalidArgumentError(fmt::format(
      "size \"{}\": {}; write a number and B, KiB, MiB, GiB, TiB, KB, MB, GB or TB, or a percentage where a whole is "
      "given",
      text, reason));
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsSpace(char c) { return c == ' ' || c == '\t'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// So that no product of a number and a unit overflows before it is checked.
__extension__ using Wide = unsigned __int128;

// numerator / denominator, exactly: "2.5" is 25 / 10.
struct Decimal {
  uint64_t numerator = 0;
  uint64_t denominator = 1;
};

// Takes digits[.digits] off the front of `rest`; false when there is none or it has more than 64 bits.
bool TakeDecimal(std::string_view* rest, Decimal* value) {
  bool any_digit = false;
  bool after_point = false;
  for (; !rest->empty(); rest->remove_prefix(1)) {
    const char c = rest->front();
    if (c == '.' && !after_point && any_digit) {
      after_point = true;
      continue;
    }
    if (!IsDigit(c)) break;
    any_digit = true;
    if (__builtin_mul_overflow(value->numerator, uint64_t{10}, &value->numerator)) return false;
    if (__builtin_add_overflow(value->numerator, static_cast<uint64_t>(c - '0'), &value->numerator)) return false;
    if (after_point && __builtin_mul_overflow(value->denominator, uint64_t{10}, &value->denominator)) return false;
  }
  return any_digit;
}

// value * factor, rounded down; nullopt when it does not fit.
std::optional<uint64_t> Scale(const Decimal& value, uint64_t factor, uint64_t divisor) {
  const auto product = static_cast<Wide>(value.numerator) * factor;
  const auto result = product / value.denominator / divisor;
  if (result > UINT64_MAX) return std::nullopt;
  return static_cast<uint64_t>(result);
}

absl::StatusOr<uint64_t> PercentOf(std::string_view text, const Decimal& value, std::optional<uint64_t> whole) {
  if (!whole.has_value()) return BadSize(text, "a percentage has no meaning here");
  const std::optional<uint64_t> bytes = Scale(value, *whole, 100);
  if (!bytes.has_value() || *bytes > *whole) return BadSize(text, "more than 100%");
  return *bytes;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text, std::optional<uint64_t> whole) {
  std::string_view rest = Trim(text);
  Decimal value;
  if (!TakeDecimal(&rest, &value)) return BadSize(text, "no number that fits 64 bits");
  const std::string unit = Lower(Trim(rest));
  if (unit == "%") return PercentOf(text, value, whole);
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    if (known.bytes == 1 && value.denominator != 1) return BadSize(text, "a part of a byte");
    const std::optional<uint64_t> bytes = Scale(value, known.bytes, 1);
    if (!bytes.has_value()) return BadSize(text, "more than 64 bits of bytes");
    return *bytes;
  }
  return BadSize(text, fmt::format("unknown unit \"{}\"", unit));
}

std::string FormatSize(uint64_t bytes) {
  constexpr double kStep = 1024;
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / kStep;
  // 1023.95 would print as 1024.0: that is 1 of the next unit.
  constexpr double kNextFrom = 1023.95;
  if (value < kNextFrom) return fmt::format("{:.1f} KiB", value);
  value /= kStep;
  if (value < kNextFrom) return fmt::format("{:.1f} MiB", value);
  value /= kStep;
  if (value < kNextFrom) return fmt::format("{:.2f} GiB", value);
  return fmt::format("{:.2f} TiB", value / kStep);
}

}  // namespace dogstar
