// The core's end of the contract with one instance of a native component (docs/formats/contract.md): the
// socket, the vitals page and the wake descriptor.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/event_loop.h"
#include "runtime/memfd.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "runtime/vitals.h"
#include "supervisor/custody.h"
#include "supervisor/fd_store.h"
#include "supervisor/manifest.h"

namespace bulkhead::supervisor {

namespace contract = bulkhead::contract::v1;

class InstanceLink {
 public:
  // All are called inside the event loop.
  struct Handlers {
    // Handled at least once: a core that dies in it leaves the message to its successor, so handling must be
    // idempotent.
    std::function<void(const contract::FromInstance& message, std::vector<UniqueFd> fds)> message;
    // The other end is closed, speaks nonsense or does not read: the instance cannot be used any more.
    std::function<void(const std::string& why)> lost;
    // How long to leave what has come where it is; 0: no time. Asked once per wait; may be empty.
    // NOLINTNEXTLINE(readability-redundant-member-init): lets designated initialisers leave it out
    std::function<std::int64_t()> patience = {};
    // Writes the manifest: a message was handled and is about to be removed, or messages wait in this process
    // because the instance does not read. Either would die with the core.
    std::function<void()> persist;
  };

  struct Descriptors {
    UniqueFd socket, vitals, wake;
  };

  // A new contract, parked under `prefix` ("i/COMPONENT/INSTANCE"). `custody` and `store` outlive the link.
  static Result<std::unique_ptr<InstanceLink>> create(const std::string& prefix, const FdStore& store,
                                                      const Custody& custody);
  // One that a former core parked.
  static Result<std::unique_ptr<InstanceLink>> adopt(const std::string& prefix, const FdStore& store,
                                                     const Custody& custody, Descriptors descriptors);
  // Unwatches; the parked copies stay until forget().
  ~InstanceLink();
  InstanceLink(const InstanceLink&) = delete;
  InstanceLink& operator=(const InstanceLink&) = delete;

  // The instance's end, to be inherited by it; close_instance_end() once it has it.
  BorrowedFd instance_end() const { return instance_end_.borrow(); }
  void close_instance_end() { instance_end_.reset(); }

  // From now on messages are received. `source` names the instance in the manifest's memory.
  Status start(EventLoop& loop, const ManifestMemory& manifest, std::uint64_t source, Handlers handlers);

  // Sends in order, later if the instance does not read now. After start().
  void send(contract::ToInstance message);
  void send_welcome(contract::Welcome welcome);
  void send_item(const std::string& name, const std::string& kind);
  // Everything sent so far has left this process.
  bool flushed() const { return outgoing_.empty(); }

  Vitals& vitals() const { return *vitals_page_.at<Vitals>(0); }
  // Shows the instance a new ping and wakes it.
  void ping(std::uint64_t count, std::int64_t now_ns);

  // The process has ended: handles what it said before.
  void hear_out();
  // Removes the parked copies: the process is gone.
  void forget() const;

 private:
  struct Outgoing {
    contract::ToInstance message;
    bool welcome = false;  // vitals and wake ride along
    std::string item;      // this item's descriptor rides along
  };

  InstanceLink(std::string prefix, const FdStore& store, const Custody& custody)
      : prefix_(std::move(prefix)), store_(&store), custody_(&custody) {}
  Status park() const;
  void enqueue(Outgoing outgoing);
  void flush();
  void cannot_send(const Error& error);
  Status send_now(const Outgoing& outgoing) const;
  void on_event(std::uint32_t events);
  Status listen();
  void pause(std::int64_t ns);
  void receive();
  bool receive_one();
  void lose(const std::string& why);

  std::string prefix_;
  const FdStore* store_;
  const Custody* custody_;
  EventLoop* loop_ = nullptr;
  const ManifestMemory* manifest_ = nullptr;
  std::uint64_t source_ = 0;
  Handlers handlers_;
  UniqueFd socket_, vitals_, wake_, instance_end_;
  Mapping vitals_page_;
  std::deque<Outgoing> outgoing_;
  bool behind_ = false;
  EventLoop::TimerId retry_ = 0, pause_ = 0;
  // Expires with this object: a callback that was under way when it went away must not touch it.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bulkhead::supervisor
