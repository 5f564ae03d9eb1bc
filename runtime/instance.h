// The instance's side of the component contract (docs/formats/contract.md): what the core gave this process,
// and the messages between the two. Serving never depends on the core: when it is dead, messages wait in the
// socket.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/memfd.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "runtime/vitals.h"

namespace bulkhead {

namespace contract {
using namespace v1;  // NOLINT(google-build-using-namespace): the generated names, one level shorter
}

inline constexpr std::uint32_t kContractVersion = 1;
inline constexpr const char* kContractFdVariable = "BULKHEAD_CONTRACT_FD";
inline constexpr const char* kRingFdVariable = "BULKHEAD_RING_FD";
inline constexpr const char* kIntegrityFinding = "integrity";
inline constexpr const char* kCustodyFinding = "custody";
inline constexpr int kDamagedStatus = 65;  // exit status of an instance that found itself damaged

struct CustodyEntry {
  std::string kind;
  UniqueFd fd;
};

// What keeps descriptors beyond a process's life: the core, as Instance reaches it; tests keep them in
// memory.
class CustodyStore {
 public:
  virtual ~CustodyStore() = default;

  // An item of custody, nullptr if there is none of that name.
  virtual const CustodyEntry* custody(const std::string& name) const = 0;
  // Puts a descriptor into custody; once this succeeds it stays there whatever becomes of the caller, and
  // custody(name) finds it.
  virtual Status deposit(const std::string& name, const std::string& kind, UniqueFd fd) = 0;
  virtual std::vector<std::string> names() const = 0;
  // Takes an item out of custody; once this succeeds it is nobody's. One that is not there is no failure.
  virtual Status withdraw(const std::string& name) = 0;
};

// Not thread-safe; may move between threads under the owner's lock.
class Instance final : public CustodyStore {
 public:
  // A message from the core that the instance itself must act on (everything but custody bookkeeping).
  using OrderHandler = std::function<void(const contract::ToInstance&)>;

  // Finds the contract in the environment, says hello, and waits until the core has sent the welcome and all
  // custody.
  static Result<Instance> attach(contract::Hello hello);

  const contract::Welcome& welcome() const { return welcome_; }
  // A number from the settings, `fallback` if absent; kInvalid if it is no number.
  Result<std::uint64_t> number_setting(const std::string& name, std::uint64_t fallback) const;
  Vitals& vitals() const { return *vitals_page_.at<Vitals>(0); }
  // Readable when the core has sent something.
  BorrowedFd contract_fd() const { return socket_.borrow(); }
  // An eventfd, readable when the core has pinged.
  BorrowedFd wake_fd() const { return wake_.borrow(); }
  // The io_uring inherited from the core; invalid if there is none.
  BorrowedFd ring_fd() const { return ring_.borrow(); }

  // Items come and go: pump() takes new ones and closes what an instance has withdrawn.
  const CustodyEntry* custody(const std::string& name) const override;

  // Waits (bounded) until the core holds it; orders that arrive meanwhile are kept for the next pump().
  Status deposit(const std::string& name, const std::string& kind, UniqueFd fd) override;
  std::vector<std::string> names() const override;
  // Waits likewise.
  Status withdraw(const std::string& name) override;

  // Handles all messages waiting. kDisconnected when the core is gone for good.
  Status pump(const OrderHandler& handler);

  // Empties the wake descriptor and answers the ping.
  void answer_ping();
  // Empties the wake descriptor without an answer (fault drop-heartbeat).
  void ignore_ping();

  // Never blocks; if the core does not read, the message is dropped and the failure returned.
  Status send(const contract::FromInstance& message);
  Status send_ready();
  Status send_finding(const std::string& finding, const std::string& evidence, const std::string& client);
  // This instance's own state is damaged: it must not answer any more. The core is told, the process ends,
  // and whoever waits for the lease continues with what it has.
  [[noreturn]] void end_damaged(const std::string& evidence);
  // What custody holds cannot be read, so that no start will succeed unless something is given up.
  Status report_damaged_custody(const std::string& evidence);
  // A standby knows that the state of the owner with this incarnation is wrong: the core replaces it.
  Status accuse_owner(std::uint64_t incarnation, const std::string& evidence);

 private:
  Instance() = default;
  Status receive_initial();
  Status take(const contract::ToInstance& message, std::vector<UniqueFd> fds);
  Result<std::optional<contract::ToInstance>> receive();
  Status wait_readable(std::int64_t deadline_ns) const;
  Status receive_until(const std::function<bool()>& answered);

  UniqueFd socket_;
  UniqueFd wake_;
  UniqueFd ring_;
  Mapping vitals_page_;
  contract::Welcome welcome_;
  bool complete_ = false;
  std::map<std::string, CustodyEntry> custody_;
  std::map<std::string, Status> answers_;   // to our deposits
  std::vector<contract::ToInstance> kept_;  // orders that arrived while waiting for something else
};

}  // namespace bulkhead
