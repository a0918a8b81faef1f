#include "tools/sweep.h"

#include <charconv>
#include <cmath>
#include <optional>

#include "base/units.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr size_t kMostValues = 10000;

struct Quantity {
  double number = 0;
  std::string_view unit;
};

std::optional<Quantity> ParseQuantity(std::string_view text) {
  Quantity quantity;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), quantity.number);
  if (error != std::errc() || !std::isfinite(quantity.number)) return std::nullopt;
  quantity.unit = text.substr(static_cast<size_t>(stop - text.data()));
  return quantity;
}

absl::Status BadRange(std::string_view text) {
  return absl::InvalidArgumentError(fmt::format(
      "\"{}\" is no range; write FIRST..LAST+STEP with numbers of one unit and a step above 0, such as 30%..90%+10%",
      text));
}

absl::Status AddRange(std::string_view text, size_t dots, std::vector<std::string>* values) {
  const size_t plus = text.find('+', dots);
  if (plus == std::string_view::npos) return BadRange(text);
  const auto first = ParseQuantity(text.substr(0, dots));
  auto last = ParseQuantity(text.substr(dots + 2, plus - dots - 2)), step = ParseQuantity(text.substr(plus + 1));
  if (!first || !last || !step) return BadRange(text);
  // Bytes may have units of their own: 1GiB..4GiB+512MiB.
  if (first->unit != last->unit || first->unit != step->unit) {
    const auto to_bytes = [&](Quantity* quantity) -> absl::Status {
      ASSIGN_OR_RETURN(const uint64_t bytes, ParseSize(fmt::format("{}{}", quantity->number, quantity->unit)));
      *quantity = {static_cast<double>(bytes), ""};
      return absl::OkStatus();
    };
    Quantity begin = *first;
    if (!to_bytes(&begin).ok() || !to_bytes(&*last).ok() || !to_bytes(&*step).ok()) return BadRange(text);
    return AddRange(fmt::format("{}..{}+{}", begin.number, last->number, step->number),
                    fmt::format("{}", begin.number).size(), values);
  }
  if (!(step->number > 0) || last->number < first->number) return BadRange(text);
  const double count = std::floor((last->number - first->number) / step->number + 1e-9);
  if (count >= static_cast<double>(kMostValues)) return BadRange(text);
  for (int i = 0; i <= static_cast<int>(count); ++i) {
    values->push_back(fmt::format("{:.12g}{}", first->number + i * step->number, first->unit));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ExpandValues(std::string_view text) {
  std::vector<std::string> values;
  for (;;) {
    const size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    if (part.empty()) return absl::InvalidArgumentError("an empty value in a list; write values with commas between");
    const size_t dots = part.find("..");
    if (dots == std::string_view::npos) {
      values.emplace_back(part);
    } else {
      RETURN_IF_ERROR(AddRange(part, dots, &values));
    }
    if (comma == std::string_view::npos) return values;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace dogstar
