#include "hypervisor/conformance/child.h"

#include <google/protobuf/wrappers.pb.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "runtime/seqpacket.h"

namespace bulkhead::hypervisor::conformance {
namespace {

std::pair<UniqueFd, UniqueFd> make_ends() {
  auto ends = seqpacket_pair();
  if (!ends) std::abort();
  return std::move(*ends);
}

// Odd: with 0 the message would be empty, and such a packet cannot be sent.
google::protobuf::Int64Value wrap(std::int64_t value) {
  google::protobuf::Int64Value message;
  message.set_value(2 * value + 1);
  return message;
}

}  // namespace

bool wait_readable(BorrowedFd fd) {
  pollfd waiting{fd.get(), POLLIN, 0};
  return ::poll(&waiting, 1, kPatienceMs) == 1;
}

Status Line::send(std::int64_t value) const {
  return send_packet(socket_.borrow(), wrap(value));
}

Status Line::send(std::int64_t value, BorrowedFd fd) const {
  return send_packet(socket_.borrow(), wrap(value), {fd});
}

Result<Message> Line::receive() const {
  if (!wait_readable(socket_.borrow())) return failure(ErrorKind::kTimeout, "a process says nothing");
  auto packet = receive_packet(socket_.borrow());
  if (!packet) return forward(std::move(packet));
  google::protobuf::Int64Value message;
  if (!*packet || !message.ParseFromString((*packet)->bytes)) {
    return failure(ErrorKind::kInvalid, "a process says nonsense");
  }
  Message received{(message.value() - 1) / 2, {}};
  if (!(*packet)->fds.empty()) received.fd = std::move((*packet)->fds[0]);
  return received;
}

Child::Child(const std::function<void(const Line&)>& body) : Child(body, make_ends()) {}

Child::Child(const std::function<void(const Line&)>& body, std::pair<UniqueFd, UniqueFd> ends)
    : line_(std::move(ends.first)) {
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) std::abort();
  if (pid_ > 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  line_ = Line(UniqueFd());  // that end is the test's
  body(Line(std::move(ends.second)));
  for (;;) ::pause();
}

void Child::kill() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void Child::stop() const {
  ::kill(pid_, SIGSTOP);
  ::waitpid(pid_, nullptr, WUNTRACED);
}

}  // namespace bulkhead::hypervisor::conformance
