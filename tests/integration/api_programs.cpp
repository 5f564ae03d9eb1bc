#include "tests/integration/api_programs.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <stdexcept>

namespace bulkhead::test {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw std::runtime_error(what);
}

bool readable(int fd) {
  pollfd watched{fd, POLLIN, 0};
  return ::poll(&watched, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) == 1;
}

UniqueFd bound_socket(int type, const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    broken("cannot bind " + path);
  return socket;
}

std::vector<std::string> merged(const Program::Environment& extra) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    if (!extra.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : extra) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

ScratchDirectory::ScratchDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "bulkhead-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) broken("cannot make a directory");
  path_ = name;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Program::Program(const std::vector<std::string>& words, const Environment& environment,
                 const std::map<int, BorrowedFd>& inherit)
    : errors_(::memfd_create("errors", MFD_CLOEXEC)) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) broken("cannot make a pipe");
  output_.reset(ends[0]);
  const UniqueFd write_end(ends[1]);
  posix_spawn_file_actions_t actions{};
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, errors_.get(), STDERR_FILENO);
  for (const auto& [number, fd] : inherit) ::posix_spawn_file_actions_adddup2(&actions, fd.get(), number);
  std::vector<std::string> arguments = words;
  std::vector<std::string> variables = merged(environment);
  const int error = ::posix_spawnp(&pid_, words[0].c_str(), &actions, nullptr, pointers(arguments).data(),
                                   pointers(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) broken("cannot start " + words[0]);
}

Program::~Program() {
  if (status_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Program::kill(int signal) const {
  ::kill(pid_, signal);
}

bool Program::fill() {
  std::array<char, 4096> chunk{};
  if (!readable(output_.get())) return false;
  const ssize_t count = ::read(output_.get(), chunk.data(), chunk.size());
  if (count <= 0) return false;
  buffer_.append(chunk.data(), static_cast<std::size_t>(count));
  return true;
}

std::optional<std::string> Program::line() {
  for (;;) {
    const std::size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string found = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return found;
    }
    if (!fill()) return std::nullopt;
  }
}

std::string Program::rest() {
  while (fill()) {
  }
  return std::exchange(buffer_, {});
}

std::string Program::errors() const {
  std::string text(64UL * 1024, '\0');
  const ssize_t count = ::pread(errors_.get(), text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}

int Program::wait() {
  if (status_) return *status_;
  const UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!readable(handle.get())) broken("the program does not end; its errors: " + errors());
  int status = 0;
  ::waitpid(pid_, &status, 0);
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return *status_;
}

Ran run(const std::vector<std::string>& words, const Program::Environment& environment) {
  Program program(words, environment);
  Ran ran;
  ran.output = program.rest();
  ran.code = program.wait();
  ran.errors = program.errors();
  return ran;
}

Edge::Edge(std::vector<std::string> flags)
    : socket_(directory_ / "api.sock"),
      flags_(std::move(flags)),
      listening_(bound_socket(SOCK_STREAM, socket_)),
      notify_(bound_socket(SOCK_DGRAM, directory_ / "notify")) {
  if (::listen(listening_.get(), 64) != 0) broken("cannot listen");
}

std::string Edge::start() {
  constexpr int kCore = 60;
  constexpr int kListening = 61;
  const UniqueFd edge_end = core_.connect();
  std::vector<std::string> words{BULKHEAD_BIN "/bulkhead-api"};
  words.insert(words.end(), flags_.begin(), flags_.end());
  program_ = std::make_unique<Program>(
      words,
      Program::Environment{{"BULKHEAD_EDGE_FD", std::to_string(kCore)},
                           {"BULKHEAD_LISTEN_FD", std::to_string(kListening)},
                           {"NOTIFY_SOCKET", directory_ / "notify"}},
      std::map<int, BorrowedFd>{{kCore, edge_end.borrow()}, {kListening, listening_.borrow()}});
  return wait_until_ready();
}

std::string Edge::wait_until_ready() {
  for (;;) {
    std::array<char, 4096> text{};
    if (!readable(notify_.get())) broken("the edge does not become ready: " + program_->errors());
    const ssize_t count = ::recv(notify_.get(), text.data(), text.size() - 1, 0);
    const std::string message(text.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
    const std::size_t status = message.find("STATUS=");
    if (message.find("READY=1") != std::string::npos && status != std::string::npos)
      return message.substr(status + 7);
  }
}

}  // namespace bulkhead::test
