// The largest values of a row (Backend::FindTop).
#pragma once

#include <span>

#include "device/backend.h"

namespace dogstar {

// top = the first entries of the row, in order. REQUIRES: it holds no more than the row.
void TopEntries(std::span<const float> row, std::span<RowEntry> top);

}  // namespace dogstar
