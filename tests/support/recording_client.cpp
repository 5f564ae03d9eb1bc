#include "tests/support/recording_client.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "tests/support/checker.h"

namespace bulkhead::xs {
namespace {

xsd_sockmsg_type type_of(Request::Kind kind) {
  static constexpr std::array kTypes{XS_READ,      XS_WRITE,     XS_MKDIR,    XS_RM,
                                     XS_DIRECTORY, XS_GET_PERMS, XS_SET_PERMS};
  return kTypes[static_cast<size_t>(kind)];
}

std::string in_order(std::string_view names) {
  std::set<std::string> sorted;
  while (!names.empty()) {
    const size_t end = std::min(names.find('\0'), names.size());
    sorted.emplace(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  std::string joined;
  for (const std::string& name : sorted) joined.append(name).append(1, '\0');
  return joined;
}

// As Step has it.
std::string result_of(const Reply& reply) {
  if (reply.error) return "!" + std::string(reply.payload);
  if (reply.type == XS_DIRECTORY) return in_order(reply.payload);
  if (reply.type == XS_READ || reply.type == XS_GET_PERMS) return std::string(reply.payload);
  return reply.payload == std::string_view("OK\0", 3) ? "OK" : "not OK: " + std::string(reply.payload);
}

}  // namespace

void RecordingClient::begin(size_t requests) {
  left_ = requests;
  operations_.clear();
  sent_.clear();
  transaction_.reset();
}

void RecordingClient::pump() {
  // Between its start and its end a transaction is all this client does.
  while (left_ > 0 && client_->connected() && client_->in_flight() < settings_.depth &&
         (!transaction_ || transaction_->ended)) {
    --left_;
    // One transaction at a time.
    if (!transaction_ && !settings_.lasting_nodes && random_() % 6 == 0) {
      start();
    } else {
      single();
    }
  }
  client_->flush();
}

size_t RecordingClient::add(Operation::Kind kind) {
  operations_.push_back({settings_.index, monotonic_ns(), Operation::kNever, kind, {}});
  return operations_.size() - 1;
}

Request RecordingClient::random_request(bool in_transaction) {
  static constexpr std::array kNodes{"/a", "/b", "/a/x", "/a/y", "/b/z", ""};
  using enum Request::Kind;
  static constexpr std::array kKinds{kRead,  kRead,   kRead,      kWrite,     kWrite,    kWrite,   kRead,
                                     kMkdir, kRemove, kDirectory, kDirectory, kGetPerms, kSetPerms};
  Request request{kKinds[random_() % kKinds.size()], settings_.base + kNodes[random_() % kNodes.size()]};
  if (settings_.lasting_nodes) {
    static constexpr std::array kLasting{"/a", "/b", "/a/x"};
    request = {random_() % 2 == 0 ? kRead : kWrite, settings_.base + kLasting[random_() % kLasting.size()]};
  }
  // Only one removal fires watches below what it removed in a way all servers agree on.
  if (request.kind == kRemove && (in_transaction || request.path == settings_.base)) request.kind = kRead;
  if (request.kind == kWrite) {
    request.argument = std::to_string(settings_.index) + "." + std::to_string(value_++);
  }
  if (request.kind == kSetPerms) {
    request.argument = std::string("n0\0r", 4) + std::to_string(1 + value_++ % 9) + '\0';
  }
  return request;
}

void RecordingClient::send(xsd_sockmsg_type type, uint32_t transaction, const std::string& payload,
                           Sent sent) {
  sent_.push_back(sent);
  client_->send(type, transaction, payload, sent_.size() - 1);
}

void RecordingClient::send(const Request& request, uint32_t transaction, Sent sent) {
  std::string payload = path_payload(request.path) + request.argument;
  send(type_of(request.kind), transaction, payload, sent);
}

void RecordingClient::single() {
  const Request request = random_request(false);
  const size_t operation = add(Operation::Kind::kSingle);
  operations_[operation].steps.push_back({request, ""});
  send(request, 0, {Sent::Role::kSingle, operation, 0});
}

void RecordingClient::start() {
  const size_t snapshot = add(Operation::Kind::kSnapshot);
  transaction_ = Transaction{snapshot, 0, random_() % 8 == 0, false, {}};
  send(XS_TRANSACTION_START, 0, std::string(1, '\0'), {Sent::Role::kStart, snapshot, 0});
}

// All its steps and its end at once: replies come in order.
void RecordingClient::continue_transaction(uint32_t id) {
  Transaction& transaction = *transaction_;
  const size_t steps = 1 + random_() % 4;
  for (size_t i = 0; i < steps; ++i) {
    transaction.steps.push_back({random_request(true), ""});
    send(transaction.steps[i].request, id, {Sent::Role::kStep, 0, i});
  }
  transaction.commit = add(Operation::Kind::kCommit);
  operations_[transaction.commit].steps = transaction.steps;
  transaction.ended = true;
  send(XS_TRANSACTION_END, id, std::string(transaction.aborts ? "F\0" : "T\0", 2),
       {Sent::Role::kEnd, transaction.commit, 0});
}

void RecordingClient::ended(const Reply& reply) {
  const Transaction transaction = std::move(*transaction_);
  transaction_.reset();
  const std::string result = result_of(reply);
  Operation& snapshot = operations_[transaction.snapshot];
  Operation& commit = operations_[transaction.commit];
  snapshot.steps = commit.steps = transaction.steps;
  commit.answered_ns = reply.received_ns;
  if (!settings_.snapshot_isolation) snapshot.steps.clear();
  if (transaction.aborts || result == "!EAGAIN") {
    commit.steps.clear();  // nothing happened
    conflicts_ += transaction.aborts ? 0 : 1;
  } else {
    ++commits_;
  }
  if (result != "OK" && result != "!EAGAIN") client_->log().add(Anomaly::kError, client_->name(), result);
}

void RecordingClient::on_reply(const Reply& reply) {
  if (reply.cookie >= sent_.size()) return;
  const Sent sent = sent_[reply.cookie];
  uint32_t id = 0;
  switch (sent.role) {
    case Sent::Role::kSingle:
      operations_[sent.operation].steps[0].result = result_of(reply);
      operations_[sent.operation].answered_ns = reply.received_ns;
      break;
    case Sent::Role::kStart:
      operations_[sent.operation].answered_ns = reply.received_ns;
      std::from_chars(reply.payload.data(), reply.payload.data() + reply.payload.size(), id);
      if (transaction_ && id != 0) continue_transaction(id);
      break;
    case Sent::Role::kStep:
      if (transaction_) transaction_->steps[sent.step].result = result_of(reply);
      break;
    case Sent::Role::kEnd:
      if (transaction_) ended(reply);
  }
}

void RecordingClient::on_event(XsClient& client, std::string_view path, std::string_view /*token*/) {
  client.log().add(Anomaly::kWrong, client.name(), "an event nobody asked for: " + std::string(path));
}

std::vector<Operation> RecordingClient::take() {
  // Emptied by ended(): no operation. A commit that was not answered stays, for it may have taken effect.
  std::erase_if(operations_, [](const Operation& operation) { return operation.steps.empty(); });
  return std::move(operations_);
}

}  // namespace bulkhead::xs
