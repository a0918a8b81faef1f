// A short text for a first look at which neurons a model uses: several kinds of writing, so that no one kind decides.
// Written for this project.
#pragma once

#include <string_view>

namespace dogstar {

inline constexpr std::string_view kCalibrationText =
    R"(The lighthouse keeper wrote down the weather every evening: wind from the west, seven knots, rain before midnight. In forty years he had missed two days, and both times his daughter had filled in the line in her own hand.

Question: A shop sells pencils in boxes of 12. Anna buys 5 boxes and gives 18 pencils to her class. How many pencils does she keep?
Answer: Anna buys 5 * 12 = 60 pencils. She gives away 18, so she keeps 60 - 18 = 42 pencils.

def moving_average(values, width):
    """Return the mean of each window of `width` neighbouring values."""
    total = sum(values[:width])
    result = [total / width]
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        result.append(total / width)
    return result

Water boils at a lower temperature on a mountain because the air presses less on its surface. That is why rice takes longer to cook in the highlands, and why recipes give other times for them.

User: Could you help me write a short note to my neighbour about the noise?
Assistant: Of course. "Dear Mr. Hall, I hope you are well. The music has been rather loud after ten this week. Would you mind turning it down a little in the evening? Thank you, and have a good weekend."

The capital of Portugal is Lisbon; its largest river is the Tagus. In 1755 an earthquake destroyed most of the city, and the new centre was built on a grid of straight streets.)";

}  // namespace dogstar
