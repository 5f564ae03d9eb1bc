#include "tests/support/stock_daemon.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <utility>

#include "runtime/pidfd.h"
#include "tests/support/xs_client.h"

namespace bulkhead::xs {
namespace {

constexpr const char* kProgram = BULKHEAD_PEERS_DIR "/usr/lib/xen-4.17/bin/xenstored";
constexpr const char* kShim = BULKHEAD_NOHYP_LIBRARY;
constexpr auto kStartDeadline = std::chrono::seconds(20);
// The daemon tells nobody when its socket listens.
constexpr auto kBetweenAttempts = std::chrono::milliseconds(5);

}  // namespace

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "bulkhead-test.XXXXXX").string();
  const char* const made = ::mkdtemp(pattern.data());
  if (made == nullptr) std::abort();
  path_ = made;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string StockDaemon::program() {
  return kProgram;
}

Status StockDaemon::launch(std::vector<const char*> arguments, uint32_t last_domain) {
  if (::access(kProgram, X_OK) != 0) {
    return os_failure(std::string(kProgram) + " is missing, run scripts/deps");
  }
  arguments.insert(arguments.begin(), kProgram);
  arguments.push_back(nullptr);
  const std::string rundir = folder_.path().string();
  const std::string domains = std::to_string(last_domain);
  pid_ = ::fork();
  if (pid_ < 0) return os_failure("fork");
  if (pid_ == 0) {
    ::setenv("XENSTORED_RUNDIR", rundir.c_str(), 1);
    ::setenv("NOHYP_LAST_DOMAIN", domains.c_str(), 1);
    ::setenv("LD_PRELOAD", kShim, 1);
    ::execv(kProgram, const_cast<char* const*>(arguments.data()));
    ::_exit(127);
  }
  return {};
}

Status StockDaemon::start(uint32_t last_domain) {
  if (Status launched = launch({"--no-fork"}, last_domain); !launched) return launched;
  const auto end = std::chrono::steady_clock::now() + kStartDeadline;
  while (!XsClient::connect(socket_path())) {
    if (std::chrono::steady_clock::now() > end)
      return failure(ErrorKind::kTimeout, "xenstored did not start");
    std::this_thread::sleep_for(kBetweenAttempts);
  }
  return {};
}

Status StockDaemon::start_from(std::span<const std::byte> state, uint32_t last_domain) {
  const std::filesystem::path path = folder_.path() / "state_dump";
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(state.data()), static_cast<std::streamsize>(state.size()));
  file.close();
  if (!file) return failure(ErrorKind::kFailed, "cannot write " + path.string());
  return launch({"--no-fork", "-U"}, last_domain);
}

Result<int> StockDaemon::wait_for_end() {
  auto process = PidFd::open(pid_);
  if (!process) return forward(std::move(process));
  pollfd end{process->fd().get(), POLLIN, 0};
  const auto deadline = std::chrono::duration_cast<std::chrono::milliseconds>(kStartDeadline);
  if (::poll(&end, 1, static_cast<int>(deadline.count())) != 1)
    return failure(ErrorKind::kTimeout, "it has not ended");
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  if (!WIFEXITED(status)) return failure(ErrorKind::kFailed, "it was killed");
  return WEXITSTATUS(status);
}

StockDaemon::~StockDaemon() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

}  // namespace bulkhead::xs
