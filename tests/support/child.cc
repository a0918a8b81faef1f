#include "tests/support/child.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/status.h"

namespace dogstar::testing_support {
namespace {

constexpr int kNotPossible = 126;
constexpr double kOutputSeconds = 20;
constexpr double kRunSeconds = 60;
constexpr uid_t kNobody = 65534;

void Require(bool done) {
  if (!done) ::_exit(kNotPossible);
}

void InstallFilter(sock_filter* filter, unsigned short length) {
  const sock_fprog program = {.len = length, .filter = filter};
  Require(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  Require(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

std::string ContentOf(int fd) {
  std::string content;
  char buffer[4096];
  for (off_t offset = 0;;) {
    const ssize_t got = ::pread(fd, buffer, sizeof buffer, offset);
    if (got <= 0) return content;
    content.append(buffer, static_cast<size_t>(got));
    offset += got;
  }
}

}  // namespace

Child::Child(const std::string& program, const std::vector<std::string>& arguments,
             const std::function<void()>& before) {
  int ends[2];
  CHECK(::pipe2(ends, O_CLOEXEC) == 0);
  err_ = ::memfd_create("stderr", MFD_CLOEXEC);
  const int image = ::open(program.c_str(), O_RDONLY | O_CLOEXEC);
  CHECK(err_ >= 0 && image >= 0);
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  pid_ = ::fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(err_, STDERR_FILENO);
    if (before) before();
    ::fexecve(image, words.data(), environ);
    ::_exit(kNotPossible);
  }
  ::close(ends[1]);
  ::close(image);
  out_ = ends[0];
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_);
  ::close(err_);
}

// Waits for some output; false when there is none in time or none to come.
bool Child::ReadSome(int limit_ms) {
  pollfd state = {.fd = out_, .events = POLLIN};
  if (ended_ || ::poll(&state, 1, limit_ms) <= 0) return false;
  char buffer[4096];
  const ssize_t got = ::read(out_, buffer, sizeof buffer);
  if (got > 0) text_.append(buffer, static_cast<size_t>(got));
  ended_ = got <= 0;
  return got > 0;
}

bool Child::AwaitOutput(size_t bytes) {
  const double deadline = Now() + kOutputSeconds;
  while (text_.size() < bytes && !ended_ && Now() < deadline) ReadSome(100);
  return text_.size() >= bytes;
}

void Child::Signal(int number) const { ::kill(pid_, number); }

ChildOutput Child::Finish() {
  const double deadline = Now() + kRunSeconds;
  while (!ended_ && Now() < deadline) ReadSome(100);
  if (!ended_) ::kill(pid_, SIGKILL);
  int status = 0;
  CHECK(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          .out = text_,
          .err = ContentOf(err_)};
}

ChildOutput RunChild(const std::string& program, const std::vector<std::string>& arguments,
                     const std::function<void()>& before) {
  return Child(program, arguments, before).Finish();
}

void ForbidCall(int number, int error_number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  InstallFilter(filter, std::size(filter));
}

void ForbidOpenFlags(int flags, int error_number) {
  constexpr auto kFlags = static_cast<uint32_t>(offsetof(seccomp_data, args) + 2 * sizeof(uint64_t));  // low half
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kFlags),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, static_cast<uint32_t>(flags)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(flags), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  InstallFilter(filter, std::size(filter));
}

void BecomeSmallUser(uint64_t lockable_bytes) {
  const rlimit limit = {.rlim_cur = lockable_bytes, .rlim_max = lockable_bytes};
  Require(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  if (::geteuid() == 0) Require(::setresuid(kNobody, kNobody, kNobody) == 0);
}

void Mount(const std::string& type, const std::string& folder, const std::string& options) {
  Require(::unshare(CLONE_NEWNS) == 0);
  Require(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  Require(::mount("none", folder.c_str(), type.c_str(), 0, options.c_str()) == 0);
}

bool CanMount(const std::string& type, const std::string& folder, const std::string& options) {
  const pid_t pid = ::fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    Mount(type, folder, options);
    ::_exit(0);
  }
  int status = 0;
  CHECK(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace dogstar::testing_support
