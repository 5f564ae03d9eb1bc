#include "tests/support/visitor.h"

#include "runtime/clock.h"

namespace bulkhead::xs {

void Visitor::step() {
  if (!client_) {
    auto socket = XsClient::connect(socket_path_);
    if (!socket) return log_.add(Anomaly::kDisconnected, "visitor", socket.error().message());
    client_ = std::make_unique<XsClient>(std::move(*socket), "visitor", log_);
    client_->send(type_, 0, payload_);
  }
  client_->flush();
  client_->receive(*this);
  client_->expire(bulkhead::monotonic_ns(), 10 * kSecond);
  if (answered_) client_.reset();
  answered_ = false;
}

void Visitor::on_reply(const Reply& reply) {
  if (reply.error || (!expected_.empty() && reply.payload != expected_)) {
    log_.add(reply.error ? Anomaly::kError : Anomaly::kWrong, "visitor", reply.payload);
  }
  answered_ = true;
  ++visits_;
}

void Visitor::on_event(XsClient& /*client*/, std::string_view path, std::string_view /*token*/) {
  log_.add(Anomaly::kWrong, "visitor", path);
}

}  // namespace bulkhead::xs
