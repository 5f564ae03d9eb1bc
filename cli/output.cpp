#include "cli/output.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace bulkhead::cli {
namespace {

// Standard errors about errors have nowhere to go: best effort.
void write_all(int fd, std::string_view text, int& error) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      error = errno;
      return;
    }
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

bool set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

}  // namespace

void guard_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    // Read-only: writing to what was closed must go on failing.
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDONLY) != fd) std::abort();
  }
  std::signal(SIGPIPE, SIG_IGN);
}

bool Output::write(std::string_view text) {
  if (error_ == 0) write_all(STDOUT_FILENO, text, error_);
  return error_ == 0;
}

Outcome<void> Output::finish() const {
  if (error_ == 0 || error_ == EPIPE) return {};
  return fail(ExitCode::kFailed,
              std::string("cannot write to the standard output: ") + ::strerrordesc_np(error_));
}

Layout standard_layout(ColourChoice colour) {
  Layout layout;
  layout.terminal = ::isatty(STDOUT_FILENO) != 0;
  const char* terminal = std::getenv("TERM");
  const bool capable = terminal != nullptr && std::string_view(terminal) != "dumb";
  layout.colour = colour == ColourChoice::kAlways ||
                  (colour == ColourChoice::kAuto && layout.terminal && capable && !set("NO_COLOR"));
  winsize size{};
  if (layout.terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) layout.width = size.ws_col;
  return layout;
}

void complain(std::string_view message) {
  int ignored = 0;
  write_all(STDERR_FILENO, "bulkhead: " + std::string(message) + "\n", ignored);
}

}  // namespace bulkhead::cli
