#include "tests/support/watch_checker.h"

#include <charconv>

namespace bulkhead::xs {
namespace {
constexpr uint64_t kNodes = 256;
constexpr uint64_t kWindow = kNodes / 2;
}  // namespace

WatchChecker::WatchChecker(size_t index, CheckerSettings settings, AnomalyLog& log)
    : Checker("watcher " + std::to_string(index), std::move(settings), log),
      directory_(path("watched/" + std::to_string(index))),
      token_("token-" + std::to_string(index)) {}

Status WatchChecker::setup() {
  for (XsClient** client : {&writer_, &watcher_}) {
    Result<XsClient*> connected = connect(client == &writer_ ? " (its writer)" : "");
    if (!connected) return forward(std::move(connected));
    *client = *connected;
  }
  Result<std::string> made = writer_->call(XS_MKDIR, 0, path_payload(directory_));
  if (!made) return forward(std::move(made), "cannot make " + directory_);
  Result<std::string> watched =
      watcher_->call(XS_WATCH, 0, path_payload(directory_) + path_payload(token_), this);
  if (!watched) return forward(std::move(watched), "cannot watch " + directory_);
  return {};
}

void WatchChecker::pump() {
  while (!stopping() && registered_ && writer_->connected() && writer_->in_flight() < settings().depth &&
         written_ - seen_ < kWindow) {
    ++written_;
    const std::string node = directory_ + "/" + std::to_string(written_ % kNodes);
    writer_->send(XS_WRITE, 0, write_payload(node, encode_value(written_)));
  }
}

void WatchChecker::on_reply(const Reply& reply) {
  succeeded(reply);
}

void WatchChecker::on_event(XsClient& client, std::string_view path, std::string_view token) {
  if (&client != watcher_ || token != token_) return Checker::on_event(client, path, token);
  // Registering a watch fires it once.
  if (!registered_ && path == directory_) {
    registered_ = true;
    return;
  }
  const std::string prefix = directory_ + "/";
  uint64_t node = 0;
  const char* const end = path.data() + path.size();
  if (!path.starts_with(prefix) || std::from_chars(path.data() + prefix.size(), end, node).ptr != end ||
      node >= kNodes) {
    return Checker::on_event(client, path, token);
  }
  check_number(node);
}

void WatchChecker::check_number(uint64_t node) {
  const uint64_t ahead = (node + kNodes - seen_ % kNodes) % kNodes;  // 1 is the one due
  if (ahead >= 1 && ahead <= written_ - seen_) {
    while (++seen_ % kNodes != node) missing_.insert(seen_ % kNodes);
    count();
    return;
  }
  const bool late = missing_.erase(node) == 1;
  anomaly(late ? Anomaly::kOutOfOrder : Anomaly::kRepeated,
          "event for node " + std::to_string(node) + " after that of write " + std::to_string(seen_));
}

bool WatchChecker::idle() const {
  return Checker::idle() && (seen_ == written_ || !watcher_->connected() || !writer_->connected());
}

void WatchChecker::finish() {
  for (const uint64_t node : missing_) anomaly(Anomaly::kLost, "an event for node " + std::to_string(node));
  if (seen_ != written_) anomaly(Anomaly::kLost, "the last " + std::to_string(written_ - seen_) + " events");
}

}  // namespace bulkhead::xs
