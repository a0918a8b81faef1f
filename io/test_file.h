// TestFile: a file of known random bytes in the temporary folder, for tests; gone with its owner.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "gtest/gtest.h"

namespace dogstar {

class TestFile {
 public:
  explicit TestFile(uint64_t bytes, const std::string& folder = ::testing::TempDir()) : content_(bytes) {
    SplitMix64 random(bytes);
    for (std::byte& byte : content_) byte = static_cast<std::byte>(random.Next());
    path_ = folder + "/dogstar_XXXXXX";
    const int fd = ::mkstemp(path_.data());
    CHECK(fd >= 0);
    for (uint64_t done = 0; done < bytes;) {
      const ssize_t written = ::write(fd, content_.data() + done, bytes - done);
      CHECK(written > 0);
      done += static_cast<uint64_t>(written);
    }
    CHECK(::fchmod(fd, 0644) == 0);
    CHECK(::close(fd) == 0);
  }
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;
  ~TestFile() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }
  const std::vector<std::byte>& content() const { return content_; }
  void Truncate(uint64_t bytes) const { CHECK(::truncate(path_.c_str(), static_cast<off_t>(bytes)) == 0); }

 private:
  std::string path_;
  std::vector<std::byte> content_;
};

}  // namespace dogstar
