// Transactions: clients move value between accounts that they all share; the sum never changes.
#pragma once

#include "tests/support/checker.h"

namespace bulkhead::xs {

inline constexpr size_t kAccounts = 8;
inline constexpr uint64_t kOpeningBalance = 1000;

// One client. Each transfer reads two accounts and its own ledger in a transaction, writes them back changed,
// and ends it; EAGAIN means try again. The ledger counts this client's commits, so a commit lost or applied
// twice shows. Now and then it audits (reads all accounts in one transaction and adds them up) or writes
// nonsense and aborts.
class TransferChecker final : public Checker {
 public:
  TransferChecker(size_t index, CheckerSettings settings, AnomalyLog& log);
  Status setup() override;
  void pump() override;
  bool idle() const override { return step_ == Step::kIdle || !client_->connected(); }
  void finish() override;
  void on_reply(const Reply& reply) override;

  uint64_t conflicts() const { return conflicts_; }
  // Audits that committed, so whose sum was checked.
  uint64_t audits() const { return audits_; }

 private:
  enum class Step : unsigned char { kIdle, kStarting, kReading, kEnding };
  enum class Kind : unsigned char { kTransfer, kAudit, kAbort };

  std::string account_path(size_t account) const;
  void begin();
  void send_reads();
  void send_writes();
  void started(std::string_view transaction);
  void read_done(uint64_t cookie, std::string_view value);
  void ended(const Reply& reply);
  void transfer_read();
  void audited(uint64_t sum, std::string_view when);
  Status open_accounts();
  Result<std::string> audit_now(uint64_t& sum);

  size_t index_;
  std::string ledger_;
  XsClient* client_ = nullptr;
  Step step_ = Step::kIdle;
  Kind kind_ = Kind::kTransfer;
  uint32_t transaction_ = 0;
  size_t reads_left_ = 0;
  size_t from_ = 0;
  size_t to_ = 1;
  std::vector<uint64_t> balances_ = std::vector<uint64_t>(kAccounts, 0);
  uint64_t ledger_read_ = 0;
  uint64_t begun_ = 0;
  uint64_t commits_ = 0;
  uint64_t conflicts_ = 0;
  uint64_t audits_ = 0;
};

}  // namespace bulkhead::xs
