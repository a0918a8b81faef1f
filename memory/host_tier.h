// The host's memory where a device computes (planner.h): which of the parts that the device lacks it holds.
#pragma once

#include <cstdint>

#include "memory/model_shape.h"
#include "memory/planner.h"

namespace dogstar {

// Takes at most so many bytes; gives how many. Adds a line for each kind of part.
uint64_t FillHostTier(const ModelShape& model, uint64_t bytes, Placement* placement);
// Whether the line is one of these.
bool IsOfHostTier(const PlanLine& line);

}  // namespace dogstar
