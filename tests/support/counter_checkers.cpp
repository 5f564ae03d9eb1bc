#include "tests/support/counter_checkers.h"

namespace bulkhead::xs {
namespace {
constexpr uint64_t kReadBackEvery = 8;
}

std::string counter_path(const std::string& base, size_t index) {
  return base + "/counters/" + std::to_string(index);
}

CounterWriter::CounterWriter(size_t index, CheckerSettings settings, AnomalyLog& log)
    : Checker("writer " + std::to_string(index), std::move(settings), log),
      node_(counter_path(this->settings().base, index)) {}

Status CounterWriter::setup() {
  Result<XsClient*> client = connect();
  if (!client) return forward(std::move(client));
  client_ = *client;
  Result<std::string> done = client_->call(XS_WRITE, 0, write_payload(node_, encode_value(0)));
  if (!done) return forward(std::move(done), "cannot write " + node_);
  return {};
}

void CounterWriter::pump() {
  while (!stopping() && client_->connected() && client_->in_flight() < settings().depth) {
    if (++sent_ % kReadBackEvery == 0) {
      client_->send(XS_READ, 0, path_payload(node_), written_);
    } else {
      ++written_;
      client_->send(XS_WRITE, 0, write_payload(node_, encode_value(written_)));
    }
  }
}

void CounterWriter::on_reply(const Reply& reply) {
  if (!succeeded(reply)) return;
  count();
  if (reply.type == XS_READ) return check_value(reply.payload, reply.cookie);
  if (reply.payload != std::string_view("OK\0", 3)) anomaly(Anomaly::kTorn, "a write's reply that is not OK");
}

void CounterWriter::check_value(std::string_view value, uint64_t due) {
  const std::optional<uint64_t> number = decode_value(value);
  if (!number) return anomaly(Anomaly::kTorn, "read back " + std::string(value));
  if (*number != due) {
    anomaly(Anomaly::kWrong,
            "read back " + std::to_string(*number) + " after writing " + std::to_string(due));
  }
}

void CounterWriter::finish() {
  if (!client_->responsive()) return;
  const Result<std::string> value = client_->call(XS_READ, 0, path_payload(node_));
  if (!value) return anomaly(Anomaly::kError, "last read of " + node_ + ": " + value.error().message());
  check_value(*value, written_);
}

CounterReader::CounterReader(size_t index, size_t writers, CheckerSettings settings, AnomalyLog& log)
    : Checker("reader " + std::to_string(index), std::move(settings), log), next_(index), seen_(writers, 0) {}

Status CounterReader::setup() {
  if (seen_.empty()) return failure(ErrorKind::kInvalid, "readers need at least one writer");
  Result<XsClient*> client = connect();
  if (!client) return forward(std::move(client));
  client_ = *client;
  return {};
}

void CounterReader::pump() {
  while (!stopping() && client_->connected() && client_->in_flight() < settings().depth) {
    const size_t node = next_++ % seen_.size();
    client_->send(XS_READ, 0, path_payload(counter_path(settings().base, node)), node);
  }
}

void CounterReader::on_reply(const Reply& reply) {
  if (!succeeded(reply)) return;
  count();
  const std::optional<uint64_t> number = decode_value(reply.payload);
  if (!number) return anomaly(Anomaly::kTorn, "read " + std::string(reply.payload));
  uint64_t& seen = seen_[reply.cookie];
  if (*number < seen) {
    anomaly(Anomaly::kWrong, "counter " + std::to_string(reply.cookie) + " went back from " +
                                 std::to_string(seen) + " to " + std::to_string(*number));
  }
  seen = *number;
}

}  // namespace bulkhead::xs
