#include "runtime/instance.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>

#include "runtime/clock.h"
#include "runtime/seqpacket.h"

namespace bulkhead {
namespace {

constexpr std::int64_t kAnswerDeadline = 5 * kSecond;

Result<UniqueFd> inherited_fd(const char* variable) {
  const char* text = ::getenv(variable);
  if (text == nullptr) return UniqueFd();
  int fd = -1;
  const std::string_view digits(text);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), fd);
  if (error != std::errc() || end != digits.data() + digits.size() || fd < 0) {
    return failure(ErrorKind::kInvalid, std::string(variable) + "=" + text + " is not a descriptor number");
  }
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return os_failure(std::string(variable) + "=" + text);
  return UniqueFd(fd);
}

bool same_open_file(BorrowedFd a, BorrowedFd b) {
  const pid_t self = ::getpid();
  return ::syscall(SYS_kcmp, self, self, KCMP_FILE, a.get(), b.get()) == 0;
}

void drain(BorrowedFd eventfd) {
  std::uint64_t count = 0;
  // Non-blocking: nothing to read is as good as something read.
  (void)!::read(eventfd.get(), &count, sizeof count);
}

}  // namespace

Result<Instance> Instance::attach(contract::Hello hello) {
  // The core executes an open file, so the kernel knows a number as our name.
  ::prctl(PR_SET_NAME, program_invocation_short_name);
  Instance instance;
  auto socket = inherited_fd(kContractFdVariable);
  if (!socket) return forward(std::move(socket));
  if (!socket->valid()) {
    return failure(ErrorKind::kInvalid,
                   std::string("not started by bulkheadd: ") + kContractFdVariable + " is not set");
  }
  auto ring = inherited_fd(kRingFdVariable);
  if (!ring) return forward(std::move(ring));
  instance.socket_ = std::move(*socket);
  instance.ring_ = std::move(*ring);
  hello.set_contract_version(kContractVersion);
  contract::FromInstance message;
  *message.mutable_hello() = std::move(hello);
  if (auto sent = instance.send(message); !sent) return forward(std::move(sent), "cannot greet the core");
  if (auto got = instance.receive_initial(); !got)
    return forward(std::move(got), "cannot attach to the core");
  return instance;
}

Status Instance::receive_initial() {
  while (!complete_) {
    // No deadline: a core that died right after starting us answers when it is back.
    if (auto ready = wait_readable(-1); !ready) return ready;
    auto message = receive();
    if (!message) return forward(std::move(message));
    if (*message && (*message)->body_case() != contract::ToInstance::kCustodyComplete) {
      kept_.push_back(std::move(**message));
    }
  }
  if (!vitals_page_.valid()) return failure(ErrorKind::kInvalid, "the core sent no vitals page");
  return {};
}

Result<std::uint64_t> Instance::number_setting(const std::string& name, std::uint64_t fallback) const {
  const auto found = welcome_.settings().find(name);
  if (found == welcome_.settings().end()) return fallback;
  const std::string& text = found->second;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return failure(ErrorKind::kInvalid, "setting " + name + " = \"" + text + "\" is not a number");
  }
  return value;
}

const CustodyEntry* Instance::custody(const std::string& name) const {
  const auto found = custody_.find(name);
  return found == custody_.end() ? nullptr : &found->second;
}

Status Instance::wait_readable(std::int64_t deadline_ns) const {
  for (;;) {
    int wait = -1;
    if (deadline_ns >= 0) {
      const std::int64_t left = deadline_ns - monotonic_ns();
      if (left <= 0) return failure(ErrorKind::kTimeout, "the core does not answer");
      wait = static_cast<int>(left / kMillisecond) + 1;
    }
    pollfd waiting{socket_.get(), POLLIN, 0};
    const int ready = ::poll(&waiting, 1, wait);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return os_failure("cannot wait for the core");
  }
}

Status Instance::take(const contract::ToInstance& message, std::vector<UniqueFd> fds) {
  switch (message.body_case()) {
    case contract::ToInstance::kWelcome: {
      if (message.welcome().contract_version() != kContractVersion) {
        return failure(ErrorKind::kInvalid, "the core speaks another version of the contract");
      }
      if (fds.size() != 2) return failure(ErrorKind::kInvalid, "the welcome lacks its descriptors");
      // A restarted core that cannot know whether its predecessor's welcome arrived says it again.
      if (vitals_page_.valid()) return {};
      auto page = Mapping::map(fds[0].borrow(), kVitalsBytes);
      if (!page) return forward(std::move(page), "vitals");
      vitals_page_ = std::move(*page);
      wake_ = std::move(fds[1]);
      welcome_ = message.welcome();
      return {};
    }
    case contract::ToInstance::kDeposited:
      if (fds.size() != 1) return failure(ErrorKind::kInvalid, "a custody item came without its descriptor");
      if (CustodyEntry& entry = custody_[message.deposited().name()];
          // A restarted core may repeat an item; the descriptor that is in use stays.
          !entry.fd.valid() || !same_open_file(entry.fd.borrow(), fds[0].borrow())) {
        entry = {message.deposited().kind(), std::move(fds[0])};
      }
      return {};
    case contract::ToInstance::kWithdrawn:
      custody_.erase(message.withdrawn());
      return {};
    case contract::ToInstance::kCustodyComplete:
      complete_ = true;
      return {};
    case contract::ToInstance::kDepositAccepted:
      answers_[message.deposit_accepted().name()] = Status();
      return {};
    case contract::ToInstance::kDepositRefused:
      answers_[message.deposit_refused().name()] =
          failure(ErrorKind::kRefused, "the core refused it: " + message.deposit_refused().why());
      return {};
    default:
      return {};
  }
}

Result<std::optional<contract::ToInstance>> Instance::receive() {
  auto packet = receive_packet(socket_.borrow());
  if (!packet) return forward(std::move(packet));
  if (!*packet) return std::optional<contract::ToInstance>();
  contract::ToInstance message;
  if (!message.ParseFromString((*packet)->bytes))
    return failure(ErrorKind::kInvalid, "garbage from the core");
  if (auto taken = take(message, std::move((*packet)->fds)); !taken) return forward(std::move(taken));
  return std::optional(std::move(message));
}

Status Instance::receive_until(const std::function<bool()>& answered) {
  const std::int64_t deadline = monotonic_ns() + kAnswerDeadline;
  while (!answered()) {
    if (auto ready = wait_readable(deadline); !ready) return ready;
    auto got = receive();
    if (!got) return forward(std::move(got));
    if (*got) kept_.push_back(std::move(**got));
  }
  return {};
}

std::vector<std::string> Instance::names() const {
  std::vector<std::string> all;
  all.reserve(custody_.size());
  for (const auto& [name, entry] : custody_) all.push_back(name);
  return all;
}

Status Instance::withdraw(const std::string& name) {
  if (!custody_.contains(name)) return {};
  contract::FromInstance message;
  message.set_withdraw(name);
  if (auto sent = send(message); !sent) return sent;
  return receive_until([&] { return !custody_.contains(name); });
}

Status Instance::deposit(const std::string& name, const std::string& kind, UniqueFd fd) {
  contract::FromInstance message;
  message.mutable_deposit()->set_name(name);
  message.mutable_deposit()->set_kind(kind);
  answers_.erase(name);
  if (auto sent = send_packet(socket_.borrow(), message, {fd.borrow()}); !sent) return sent;
  if (auto received = receive_until([&] { return answers_.contains(name); }); !received) return received;
  Status answer = std::move(answers_.extract(name).mapped());
  if (answer) custody_[name] = {kind, std::move(fd)};
  return answer;
}

Status Instance::pump(const OrderHandler& handler) {
  const auto kept = std::exchange(kept_, {});
  for (const auto& message : kept) handler(message);
  for (;;) {
    auto message = receive();
    if (!message) return forward(std::move(message));
    if (!*message) return {};
    handler(**message);
  }
}

void Instance::answer_ping() {
  drain(wake_.borrow());
  // Read after draining: a ping that comes later has rung again.
  vitals().pong.store(vitals().ping.load());
}

void Instance::ignore_ping() {
  drain(wake_.borrow());
}

Status Instance::send(const contract::FromInstance& message) {
  return send_packet(socket_.borrow(), message);
}

Status Instance::send_ready() {
  contract::FromInstance message;
  message.mutable_ready();
  return send(message);
}

Status Instance::send_finding(const std::string& finding, const std::string& evidence,
                              const std::string& client) {
  contract::FromInstance message;
  message.mutable_finding()->set_finding(finding);
  message.mutable_finding()->set_evidence(evidence);
  message.mutable_finding()->set_client(client);
  return send(message);
}

namespace {

contract::FromInstance accusation(const char* finding, const std::string& evidence,
                                  contract::Accused accused) {
  contract::FromInstance message;
  message.mutable_finding()->set_finding(finding);
  message.mutable_finding()->set_evidence(evidence);
  message.mutable_finding()->set_accused(accused);
  return message;
}

}  // namespace

void Instance::end_damaged(const std::string& evidence) {
  // A core that cannot be told still sees the exit status.
  (void)send(accusation(kIntegrityFinding, evidence, contract::ACCUSED_SELF));
  ::_exit(kDamagedStatus);
}

Status Instance::report_damaged_custody(const std::string& evidence) {
  return send(accusation(kCustodyFinding, evidence, contract::ACCUSED_CUSTODY));
}

Status Instance::accuse_owner(std::uint64_t incarnation, const std::string& evidence) {
  auto message = accusation(kIntegrityFinding, evidence, contract::ACCUSED_OWNER);
  message.mutable_finding()->set_incarnation(incarnation);
  return send(message);
}

}  // namespace bulkhead
