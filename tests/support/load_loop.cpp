#include "tests/support/load_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>

namespace bulkhead::xs {
namespace {

constexpr int kTurnMs = 20;
constexpr int64_t kDeadlineCheckNs = int64_t{100} * 1000000;
constexpr uint64_t kOrders = UINT64_MAX;  // epoll's name for the FIFO; links are named by their index
constexpr uint64_t kProbeValue = 4711;

}  // namespace

LoadLoop::LoadLoop(CheckerSettings settings, AnomalyLog& log, Limits limits)
    : settings_(std::move(settings)), log_(log), limits_(limits) {}

Status LoadLoop::open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return os_failure("epoll_create1");
  if (orders_.valid()) {
    epoll_event interest{EPOLLIN, {.u64 = kOrders}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, orders_.get(), &interest) != 0)
      return os_failure("epoll_ctl");
  }
  Result<UniqueFd> socket = XsClient::connect(settings_.socket_path);
  if (!socket) return forward(std::move(socket));
  probe_ = std::make_unique<XsClient>(std::move(*socket), "probe", log_);
  const std::string node = settings_.base + "/probe";
  Result<std::string> written = probe_->call(XS_WRITE, 0, write_payload(node, encode_value(kProbeValue)));
  if (!written) return forward(std::move(written), "cannot write " + node);
  return watch(*probe_, nullptr);
}

Status LoadLoop::watch(XsClient& client, Checker* checker) {
  epoll_event interest{EPOLLIN, {.u64 = links_.size()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, client.socket().get(), &interest) != 0) {
    return os_failure("epoll_ctl");
  }
  links_.push_back({&client, checker, false, false});
  return {};
}

Status LoadLoop::add(std::unique_ptr<Checker> checker) {
  if (Status ready = checker->setup(); !ready) return ready;
  for (const auto& client : checker->clients()) {
    if (Status watched = watch(*client, checker.get()); !watched) return watched;
  }
  checkers_.push_back(std::move(checker));
  return {};
}

void LoadLoop::run(const std::function<bool()>& done) {
  last_reply_ns_ = monotonic_ns();
  for (Link& link : links_) {
    if (link.checker != nullptr) link.checker->pump();
    settle(link);
  }
  while (!done() && !stop_ordered_) turn(kTurnMs);
  longest_silence_ns_ = std::max(longest_silence_ns_, monotonic_ns() - last_reply_ns_);
  for (const auto& checker : checkers_) checker->stop();
  drain();
  for (Link& link : links_) link.client->expire(monotonic_ns(), 0);
  for (const auto& checker : checkers_) checker->finish();
  remove_tree();
}

void LoadLoop::drain() {
  const int64_t end = monotonic_ns() + limits_.drain_deadline_ns;
  const auto idle = [this] {
    return probe_->in_flight() == 0 && std::all_of(checkers_.begin(), checkers_.end(),
                                                   [](const auto& checker) { return checker->idle(); });
  };
  while (!idle() && monotonic_ns() < end) turn(kTurnMs);
}

void LoadLoop::turn(int timeout_ms) {
  std::array<epoll_event, 64> events{};
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < n; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.u64 == kOrders) {
      read_orders();
    } else {
      serve(links_[event.data.u64], event.events);
    }
  }
  check_deadlines();
}

void LoadLoop::serve(Link& link, uint32_t events) {
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    Listener& listener = link.checker != nullptr ? static_cast<Listener&>(*link.checker) : *this;
    const uint64_t before = link.client->replies();
    link.client->receive(listener);
    if (link.client->replies() != before) arrived(monotonic_ns());
  }
  if (link.checker == nullptr) return settle(link);
  link.checker->pump();
  for (Link& other : links_) {
    if (other.checker == link.checker) settle(other);
  }
}

void LoadLoop::arrived(int64_t now_ns) {
  const int64_t silence = now_ns - last_reply_ns_;
  longest_silence_ns_ = std::max(longest_silence_ns_, silence);
  for (size_t i = answered_marks_; i < marks_.size(); ++i) {
    marks_[i].silence_ns = std::max(marks_[i].silence_ns, silence);
  }
  last_reply_ns_ = now_ns;
}

// Writes what is queued and follows the connection's state in the epoll set.
void LoadLoop::settle(Link& link) {
  if (link.closed) return;
  link.client->flush();
  if (!link.client->connected()) {
    link.closed = true;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.client->socket().get(), nullptr);
    return;
  }
  if (link.client->output_pending() == link.polls_output) return;
  link.polls_output = !link.polls_output;
  const auto index = static_cast<uint64_t>(&link - links_.data());
  epoll_event interest{link.polls_output ? uint32_t{EPOLLIN | EPOLLOUT} : uint32_t{EPOLLIN}, {.u64 = index}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, link.client->socket().get(), &interest);
}

void LoadLoop::check_deadlines() {
  const int64_t now = monotonic_ns();
  if (now < next_deadline_check_ns_) return;
  next_deadline_check_ns_ = now + kDeadlineCheckNs;
  for (Link& link : links_) link.client->expire(now, limits_.reply_deadline_ns);
}

void LoadLoop::mark(int64_t at_ns) {
  marks_.push_back({at_ns, -1, 0});
  if (!probe_->connected()) return;
  probe_->send(XS_READ, 0, path_payload(settings_.base + "/probe"), marks_.size() - 1);
  settle(links_.front());
}

void LoadLoop::on_reply(const Reply& reply) {
  if (reply.error || decode_value(reply.payload) != kProbeValue) {
    log_.add(reply.error ? Anomaly::kError : Anomaly::kWrong, "probe", "read " + std::string(reply.payload));
    return;
  }
  if (reply.cookie >= marks_.size()) return;
  arrived(reply.received_ns);
  Mark& answered = marks_[reply.cookie];
  answered.answer_ns = reply.received_ns - answered.at_ns;
  answered_marks_ = reply.cookie + 1;
}

void LoadLoop::on_event(XsClient& /*client*/, std::string_view path, std::string_view /*token*/) {
  log_.add(Anomaly::kWrong, "probe", "an event nobody asked for: " + std::string(path));
}

void LoadLoop::read_orders() {
  std::array<char, 4096> buffer{};
  const ssize_t n = ::read(orders_.get(), buffer.data(), buffer.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, orders_.get(), nullptr);
    return;
  }
  order_text_.append(buffer.data(), static_cast<size_t>(n));
  size_t end = 0;
  while ((end = order_text_.find('\n')) != std::string::npos) {
    order(std::string_view(order_text_).substr(0, end));
    order_text_.erase(0, end + 1);
  }
}

void LoadLoop::order(std::string_view line) {
  const size_t space = std::min(line.find(' '), line.size());
  const std::string_view verb = line.substr(0, space);
  const std::string_view number = line.substr(std::min(space + 1, line.size()));
  int64_t value = 0;
  std::from_chars(number.data(), number.data() + number.size(), value);
  if (verb == "stop") {
    stop_ordered_ = true;
  } else if (verb == "mark") {
    mark(value != 0 ? value : monotonic_ns());
  } else if (verb == "kill" && value > 1) {
    const int64_t now = monotonic_ns();
    if (::kill(static_cast<pid_t>(value), SIGKILL) == 0) mark(now);
  }
}

uint64_t LoadLoop::replies() const {
  uint64_t sum = 0;
  for (const Link& link : links_) sum += link.client->replies();
  return sum;
}

void LoadLoop::remove_tree() {
  if (!probe_->responsive()) return;
  const Result<std::string> removed = probe_->call(XS_RM, 0, path_payload(settings_.base));
  if (!removed) log_.add(Anomaly::kError, "probe", "cannot remove the tree: " + removed.error().message());
}

}  // namespace bulkhead::xs
