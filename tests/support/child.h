// Child: the program as a process of its own, under conditions that a test chooses, watched while it runs.
// POSIX only; threads: one.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dogstar::testing_support {

struct ChildOutput {
  int exit_code = -1;  // 128 + signal for one that was killed
  std::string out;     // standard output
  std::string err;
};

class Child {
 public:
  // Runs `program` with `arguments`. `before` is called in the new process first; it may take rights away, mount and
  // limit, and must only make system calls. The program is opened before that, so it need not be reachable after.
  Child(const std::string& program, const std::vector<std::string>& arguments,
        const std::function<void()>& before = {});
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();  // killed if it still runs

  // Waits until standard output has so many bytes; false when it ends before, or after 20 s.
  bool AwaitOutput(size_t bytes);
  void Signal(int number) const;
  // Waits for the end; after 60 s it is killed.
  ChildOutput Finish();

 private:
  bool ReadSome(int limit_ms);

  pid_t pid_ = -1;
  int out_ = -1;        // reading end of its standard output
  int err_ = -1;        // a file without a name
  bool ended_ = false;  // its standard output is closed
  std::string text_;
};

// Runs to the end.
ChildOutput RunChild(const std::string& program, const std::vector<std::string>& arguments,
                     const std::function<void()>& before = {});

// For `before`. Each ends the child with exit code 126 where it cannot be had; CanMount tells beforehand.

// Every later system call `number` fails with `error_number`.
void ForbidCall(int number, int error_number);
// openat with all of `flags` set fails with `error_number`.
void ForbidOpenFlags(int flags, int error_number);
// A user without rights who may lock so many bytes.
void BecomeSmallUser(uint64_t lockable_bytes);
// A file system that only this process sees. type: "tmpfs", "ramfs", "overlay".
void Mount(const std::string& type, const std::string& folder, const std::string& options);
bool CanMount(const std::string& type, const std::string& folder, const std::string& options);

}  // namespace dogstar::testing_support
