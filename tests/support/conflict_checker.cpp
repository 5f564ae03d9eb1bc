#include "tests/support/conflict_checker.h"

#include <charconv>

namespace bulkhead::xs {

Status ConflictChecker::setup() {
  Result<XsClient*> client = connect();
  if (!client) return forward(std::move(client));
  client_ = *client;
  return {};
}

void ConflictChecker::pump() {
  if (busy_ || stopping() || !client_->connected()) return;
  busy_ = true;
  ++tries_;
  client_->send(XS_TRANSACTION_START, 0, std::string_view("\0", 1));
}

void ConflictChecker::on_reply(const Reply& reply) {
  if (reply.type == XS_TRANSACTION_END) return ended(reply);
  if (!succeeded(reply)) {
    busy_ = false;
    return;
  }
  if (reply.type == XS_TRANSACTION_START) {
    std::from_chars(reply.payload.data(), reply.payload.data() + reply.payload.size(), transaction_);
    client_->send(XS_READ, transaction_, path_payload(bounds_.node));
  } else if (reply.type == XS_READ) {
    client_->send(XS_WRITE, transaction_, write_payload(bounds_.node, "the toolstack's"));
  } else {
    client_->send(XS_TRANSACTION_END, transaction_, std::string_view("T\0", 2));
  }
}

void ConflictChecker::ended(const Reply& reply) {
  busy_ = false;
  if (reply.error && reply.payload == "EAGAIN") {
    ++conflicts_;
    if (tries_ == bounds_.max_tries) anomaly(Anomaly::kWrong, "one commit needs too many tries");
    return;
  }
  if (!succeeded(reply)) return;
  tries_ = 0;
  count();
}

}  // namespace bulkhead::xs
