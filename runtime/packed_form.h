// The packed form of a model, found or made. Threads: the caller's, and those of the pack.
#pragma once

#include <string>

#include "base/status.h"
#include "runtime/config.h"
#include "runtime/engine.h"

namespace dogstar {

// The path of the packed form of `source`: one that is up to date beside it or in config.cache_dir, else one made now,
// beside the model where that folder can be written and in the cache where not. Says through hooks.note what it makes
// and why. FailedPrecondition says what to do where neither can be written.
absl::StatusOr<std::string> FindOrMakePackedForm(const std::string& source, const Config& config, int threads,
                                                 const Hooks& hooks);

}  // namespace dogstar
