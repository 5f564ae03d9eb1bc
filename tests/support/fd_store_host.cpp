// Stands in for systemd in tests: offers a NOTIFY_SOCKET with a descriptor store, runs a command with
// LISTEN_FDS, and runs it again when it dies of a signal or ends with another status than 0.
//
// fd_store_host [--once-env NAME=VALUE]... [--status FILE] -- COMMAND ARGUMENT...
//
// --once-env: only in the environment of the first run. --status: after each notification FILE holds one
// line, "PID RUNS READY STORED STATUS". SIGTERM is passed on; SIGHUP to this process does nothing else than
// that.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/unique_fd.h"

namespace {

using bulkhead::UniqueFd;

struct Stored {
  std::string name;
  UniqueFd fd;
};

class Host {
 public:
  Host(std::vector<char*> command, std::vector<std::string> once, std::string status)
      : command_(std::move(command)), once_(std::move(once)), status_file_(std::move(status)) {}

  int run() {
    if (!listen()) {
      std::perror("fd_store_host");
      return 1;
    }
    for (;;) {
      start();
      const int status = supervise();
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
      if (terminated_) return 1;
    }
  }

 private:
  bool listen() {
    char directory[] = "/tmp/fd-store-host-XXXXXX";
    if (::mkdtemp(directory) == nullptr) return false;
    socket_path_ = std::string(directory) + "/notify";
    socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
    if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return false;
    const int size = 8 << 20;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    sigset_t signals;
    ::sigemptyset(&signals);
    for (const int number : {SIGTERM, SIGINT, SIGUSR2, SIGHUP, SIGCHLD}) ::sigaddset(&signals, number);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC));
    return signals_.valid();
  }

  void start() {
    child_ = ::fork();
    if (child_ == 0) become_command();
    ++runs_;
    ready_ = false;
    // As systemd does: the descriptors are the new process's now, and are kept as well.
    write_status();
  }

  [[noreturn]] void become_command() {
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    std::string names;
    // Out of the way first: the targets 3.. may be in use by the sources.
    std::vector<int> high;
    high.reserve(stored_.size());
    const int base = 3 + static_cast<int>(stored_.size()) + 64;
    for (const Stored& entry : stored_) high.push_back(::fcntl(entry.fd.get(), F_DUPFD, base));
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      ::dup2(high[i], 3 + static_cast<int>(i));
      ::close(high[i]);
      names += (i == 0 ? "" : ":") + stored_[i].name;
    }
    ::setenv("NOTIFY_SOCKET", socket_path_.c_str(), 1);
    if (!stored_.empty()) {
      ::setenv("LISTEN_FDS", std::to_string(stored_.size()).c_str(), 1);
      ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
      ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    }
    if (runs_ == 0) {
      for (std::string& variable : once_) ::putenv(variable.data());
    }
    ::execvp(command_[0], command_.data());
    std::perror(command_[0]);
    ::_exit(127);
  }

  // Returns the wait status of the command.
  int supervise() {
    for (;;) {
      std::array<pollfd, 2> waiting{pollfd{socket_.get(), POLLIN, 0}, pollfd{signals_.get(), POLLIN, 0}};
      ::poll(waiting.data(), waiting.size(), -1);
      // Notifications before exits: what a process said before it died counts.
      while (receive()) {
      }
      if (waiting[1].revents == 0) continue;
      signalfd_siginfo info{};
      if (::read(signals_.get(), &info, sizeof info) != sizeof info) continue;
      if (info.ssi_signo != SIGCHLD) {
        terminated_ = terminated_ || info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
        ::kill(child_, static_cast<int>(info.ssi_signo));
        continue;
      }
      int status = 0;
      if (::waitpid(child_, &status, WNOHANG) == child_) {
        while (receive()) {
        }
        return status;
      }
    }
  }

  bool receive() {
    std::array<char, 4096> text{};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(16 * sizeof(int)) + 256> control{};
    iovec data{text.data(), text.size()};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) return false;
    std::vector<UniqueFd> fds;
    for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
      if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
      for (std::size_t i = 0; i < (part->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
        fds.emplace_back(fd);
      }
    }
    handle({text.data(), static_cast<std::size_t>(got)}, std::move(fds));
    return true;
  }

  void handle(std::string_view text, std::vector<UniqueFd> fds) {
    std::string name = "stored";
    bool store = false, remove = false;
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line == "FDSTORE=1") store = true;
      if (line == "FDSTOREREMOVE=1") remove = true;
      if (line == "READY=1") ready_ = true;
      if (line.starts_with("FDNAME=")) name = line.substr(7);
      if (line.starts_with("STATUS=")) status_ = line.substr(7);
    }
    if (remove) std::erase_if(stored_, [&name](const Stored& entry) { return entry.name == name; });
    if (store) {
      for (UniqueFd& fd : fds) stored_.push_back({name, std::move(fd)});
    }
    write_status();
  }

  void write_status() const {
    if (status_file_.empty()) return;
    const std::string temporary = status_file_ + ".new";
    std::FILE* file = std::fopen(temporary.c_str(), "w");
    if (file == nullptr) return;
    std::fprintf(file, "%d %d %d %zu %s\n", child_, runs_, ready_ ? 1 : 0, stored_.size(), status_.c_str());
    std::fclose(file);
    std::rename(temporary.c_str(), status_file_.c_str());
  }

  std::vector<char*> command_;
  std::vector<std::string> once_;
  std::string status_file_;
  std::string socket_path_;
  UniqueFd socket_, signals_;
  std::vector<Stored> stored_;
  std::string status_;
  pid_t child_ = 0;
  int runs_ = 0;
  bool ready_ = false;
  bool terminated_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> once;
  std::string status;
  int at = 1;
  for (; at + 1 < argc && std::string_view(argv[at]) != "--"; at += 2) {
    if (std::string_view(argv[at]) == "--once-env") once.emplace_back(argv[at + 1]);
    if (std::string_view(argv[at]) == "--status") status = argv[at + 1];
  }
  if (at >= argc || std::string_view(argv[at]) != "--" || at + 1 >= argc) {
    std::fputs("fd_store_host: usage: [--once-env NAME=VALUE]... [--status FILE] -- COMMAND ARGUMENT...\n",
               stderr);
    return 2;
  }
  std::vector<char*> command(argv + at + 1, argv + argc);
  command.push_back(nullptr);
  return Host(std::move(command), std::move(once), std::move(status)).run();
}
