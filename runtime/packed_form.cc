#include "runtime/packed_form.h"

#include <malloc.h>
#include <unistd.h>

#include <filesystem>

#include "base/units.h"
#include "fmt/format.h"
#include "model/packed_file.h"
#include "runtime/importance.h"

namespace dogstar {
namespace {

// OK when `packed` is there, opens, and was made from a source of this identity. NotFound when it is not there.
absl::Status CheckPackedForm(const std::string& packed, const SourceIdentity& identity) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(packed));
  ASSIGN_OR_RETURN(const PackedFile file, PackedFile::Open(packed, header));
  return file.source() == identity ? absl::OkStatus() : absl::FailedPreconditionError("made from another file");
}

// The folder of `packed` is there and can be written, or the error says what else can be done.
absl::Status PrepareFolder(const std::string& source, const std::string& packed, const Config& config) {
  const std::string advice =
      fmt::format("set cache_dir to a folder that can be written, or run `dogstar pack {} -o FILE`, then FILE", source);
  const std::filesystem::path folder = std::filesystem::path(packed).parent_path();
  if (packed != PackedPathBeside(source) && config.cache_dir.empty()) {
    return absl::FailedPreconditionError(fmt::format(
        "{} has to be packed, its folder cannot be written and there is no cache folder: {}", source, advice));
  }
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (folder.empty() || ::access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{} has to be packed, and neither its folder nor the cache folder {} can be written: {}", source,
                  folder.string(), advice));
}

}  // namespace

absl::StatusOr<std::string> FindOrMakePackedForm(const std::string& source, const Config& config, int threads,
                                                 const Hooks& hooks) {
  const auto note = [&](const std::string& message) {
    if (hooks.note) hooks.note(message);
  };
  ASSIGN_OR_RETURN(const SourceIdentity identity, IdentifySource(source));
  const std::string beside = PackedPathBeside(source), packed = DefaultPackedPath(source, config.cache_dir);
  if (beside != packed && CheckPackedForm(beside, identity).ok()) return beside;
  const absl::Status found = CheckPackedForm(packed, identity);
  if (found.ok()) return packed;
  if (found.code() != absl::StatusCode::kNotFound) {
    note(fmt::format("{} does not match {} any more and is packed again: {}", packed, source,
                     std::string(found.message())));
  }
  RETURN_IF_ERROR(PrepareFolder(source, packed, config));
  note(fmt::format("packing {} once into {} (about {})", source, packed, FormatSize(identity.bytes)));
  PackOptions options;
  ASSIGN_OR_RETURN(options.importance, NewImportancePass(source, threads));
  options.progress = [&](uint64_t done, uint64_t total) {
    if (hooks.progress) hooks.progress("packing", done, total);
  };
  RETURN_IF_ERROR(PackModel(source, packed, options));
  malloc_trim(0);
  return packed;
}

}  // namespace dogstar
