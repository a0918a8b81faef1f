// Bleu: how near a text is to a reference, 0 to 100, of one pair.
//
// Words are maximal runs of letters, digits and bytes above ASCII, and every other byte that is no white space; n-grams
// of 1 to 4 words. Effective order: orders that the text is too short for do not count, so equal short texts have 100
// (without it they have 0). An order without a match counts as 2^-m matches, m the number of such orders so far
// ("exponential" smoothing, as sacrebleu's default). Brevity: exp(1 - reference / text) for shorter texts.
// Formula: Papineni et al. 2002. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dogstar {

std::vector<std::string> BleuWords(std::string_view text);
double Bleu(std::string_view text, std::string_view reference);

}  // namespace dogstar
