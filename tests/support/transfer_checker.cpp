#include "tests/support/transfer_checker.h"

#include <charconv>
#include <numeric>

namespace bulkhead::xs {
namespace {

constexpr uint64_t kLedgerCookie = kAccounts;
constexpr uint64_t kAuditEvery = 16;
constexpr uint64_t kAbortEvery = 23;
constexpr uint64_t kLargestTransfer = 10;
constexpr uint64_t kTotal = kAccounts * kOpeningBalance;
constexpr int kFinalAuditAttempts = 100;

}  // namespace

TransferChecker::TransferChecker(size_t index, CheckerSettings settings, AnomalyLog& log)
    : Checker("mover " + std::to_string(index), std::move(settings), log),
      index_(index),
      ledger_(path("ledgers/" + std::to_string(index))),
      begun_(index * 5) {}

std::string TransferChecker::account_path(size_t account) const {
  return path("accounts/" + std::to_string(account));
}

Status TransferChecker::setup() {
  Result<XsClient*> client = connect();
  if (!client) return forward(std::move(client));
  client_ = *client;
  Result<std::string> done = client_->call(XS_WRITE, 0, write_payload(ledger_, encode_value(0)));
  if (!done) return forward(std::move(done), "cannot write " + ledger_);
  return index_ == 0 ? open_accounts() : Status{};
}

Status TransferChecker::open_accounts() {
  for (size_t account = 0; account < kAccounts; ++account) {
    const std::string node = account_path(account);
    Result<std::string> done = client_->call(XS_WRITE, 0, write_payload(node, encode_value(kOpeningBalance)));
    if (!done) return forward(std::move(done), "cannot write " + node);
  }
  return {};
}

void TransferChecker::pump() {
  if (step_ == Step::kIdle && !stopping() && client_->connected()) begin();
}

void TransferChecker::begin() {
  ++begun_;
  kind_ = begun_ % kAuditEvery == 0   ? Kind::kAudit
          : begun_ % kAbortEvery == 0 ? Kind::kAbort
                                      : Kind::kTransfer;
  from_ = begun_ * 7 % kAccounts;
  to_ = (from_ + 1 + begun_ % (kAccounts - 1)) % kAccounts;
  step_ = Step::kStarting;
  client_->send(XS_TRANSACTION_START, 0, std::string_view("\0", 1));
}

void TransferChecker::on_reply(const Reply& reply) {
  if (reply.type == XS_TRANSACTION_END) return ended(reply);
  const bool good = succeeded(reply);
  if (reply.type == XS_TRANSACTION_START) {
    if (good) return started(reply.payload);
    step_ = Step::kIdle;
  } else if (reply.type == XS_READ && step_ == Step::kReading) {
    read_done(reply.cookie, good ? reply.payload : std::string_view());
  }
}

void TransferChecker::started(std::string_view transaction) {
  const auto [end, error] =
      std::from_chars(transaction.data(), transaction.data() + transaction.size(), transaction_);
  if (error != std::errc{} || transaction_ == 0 || *end != '\0') {
    anomaly(Anomaly::kTorn, "a transaction started as " + std::string(transaction));
    step_ = Step::kIdle;
    return;
  }
  step_ = Step::kReading;
  send_reads();
}

void TransferChecker::send_reads() {
  reads_left_ = kind_ == Kind::kAudit ? kAccounts : 3;
  if (kind_ == Kind::kAudit) {
    for (size_t account = 0; account < kAccounts; ++account) {
      client_->send(XS_READ, transaction_, path_payload(account_path(account)), account);
    }
    return;
  }
  client_->send(XS_READ, transaction_, path_payload(account_path(from_)), from_);
  client_->send(XS_READ, transaction_, path_payload(account_path(to_)), to_);
  client_->send(XS_READ, transaction_, path_payload(ledger_), kLedgerCookie);
}

void TransferChecker::read_done(uint64_t cookie, std::string_view value) {
  const std::optional<uint64_t> number = decode_value(value);
  if (!number) anomaly(Anomaly::kTorn, "read " + std::string(value));
  (cookie == kLedgerCookie ? ledger_read_ : balances_[cookie]) = number.value_or(0);
  if (--reads_left_ > 0) return;
  step_ = Step::kEnding;
  if (kind_ != Kind::kAudit) send_writes();
  client_->send(XS_TRANSACTION_END, transaction_, std::string_view(kind_ == Kind::kAbort ? "F\0" : "T\0", 2));
}

void TransferChecker::send_writes() {
  if (ledger_read_ != commits_) {
    anomaly(Anomaly::kWrong,
            "ledger says " + std::to_string(ledger_read_) + " commits, made " + std::to_string(commits_));
    commits_ = ledger_read_;
  }
  // An aborted transfer creates money: it must never be seen.
  const uint64_t amount =
      kind_ == Kind::kAbort ? 0 : std::min(balances_[from_], 1 + begun_ % kLargestTransfer);
  const uint64_t gain = kind_ == Kind::kAbort ? kTotal : amount;
  const auto write = [this](const std::string& node, uint64_t number) {
    client_->send(XS_WRITE, transaction_, write_payload(node, encode_value(number)));
  };
  write(account_path(from_), balances_[from_] - amount);
  write(account_path(to_), balances_[to_] + gain);
  write(ledger_, ledger_read_ + 1);
}

void TransferChecker::ended(const Reply& reply) {
  step_ = Step::kIdle;
  if (reply.error && reply.payload == "EAGAIN" && kind_ != Kind::kAbort) {
    ++conflicts_;
    return;
  }
  if (!succeeded(reply)) return;
  if (kind_ == Kind::kTransfer) {
    ++commits_;
    count();
  } else if (kind_ == Kind::kAudit) {
    audited(std::accumulate(balances_.begin(), balances_.end(), uint64_t{0}), "in the run");
  }
}

void TransferChecker::audited(uint64_t sum, std::string_view when) {
  ++audits_;
  if (sum == kTotal) return;
  anomaly(Anomaly::kWrong, "the accounts add up to " + std::to_string(sum) + " instead of " +
                               std::to_string(kTotal) + " " + std::string(when));
}

Result<std::string> TransferChecker::audit_now(uint64_t& sum) {
  sum = 0;
  Result<std::string> begun = client_->call(XS_TRANSACTION_START, 0, std::string_view("\0", 1));
  if (!begun) return begun;
  const auto transaction = static_cast<uint32_t>(std::stoul(*begun));
  for (size_t account = 0; account < kAccounts; ++account) {
    Result<std::string> value = client_->call(XS_READ, transaction, path_payload(account_path(account)));
    if (!value) return value;
    sum += decode_value(*value).value_or(0);
  }
  return client_->call(XS_TRANSACTION_END, transaction, std::string_view("T\0", 2));
}

void TransferChecker::finish() {
  for (int attempt = 0; client_->responsive() && attempt < kFinalAuditAttempts; ++attempt) {
    uint64_t sum = 0;
    const Result<std::string> done = audit_now(sum);
    if (done) return audited(sum, "at the end");
    if (done.error().message() != "EAGAIN") {
      return anomaly(Anomaly::kError, "last audit: " + done.error().message());
    }
  }
}

}  // namespace bulkhead::xs
