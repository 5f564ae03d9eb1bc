// A domain of the local hypervisor with the frontend's half of the xenstore ring (xen/io/xs_wire.h), as a
// guest's kernel has it: its clients use a socket, the ring is what is behind it. It trusts nobody: indexes
// of the server that go back or too far are noted.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "hypervisor/local/frontend.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "tests/support/xs_client.h"

namespace bulkhead::testing {

class Guest {
 public:
  // `machine`: socket of a bulkhead-local-hypervisor. `domid` 0 is the kernel of the host itself, which is
  // connected without an introduction.
  static Result<std::unique_ptr<Guest>> create(const std::string& machine,
                                               std::optional<hypervisor::Domid> domid = std::nullopt);
  // Ends the domain, too.
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  hypervisor::local::LocalDomain& domain() { return *domain_; }
  hypervisor::Domid domid() const { return domain_->domid(); }
  hypervisor::Port port() const { return port_; }
  // Payload of INTRODUCE.
  std::string introduction() const;
  // For those that do without connect(), to do what no kernel does.
  xenstore_domain_interface& ring() const {
    return *reinterpret_cast<xenstore_domain_interface*>(domain_->xenstore_page().data());
  }
  // Field of the ring that the server changes, too.
  static std::atomic_ref<std::uint32_t> word(std::uint32_t& field) { return std::atomic_ref(field); }
  void notify() { (void)domain_->notify(port_); }
  // Puts as many bytes as there is room for behind its requests; how many. Nobody is woken.
  std::size_t put(std::string_view bytes);

  // The kernel's driver, in a thread: carries bytes between the ring and a client's socket, from when the
  // server says that the ring is connected until the client hangs up; then `at_end` is called, in that
  // thread. Once only. connect() makes the socket, and returns the client's end.
  void serve(UniqueFd socket, std::function<void()> at_end = {});
  Result<UniqueFd> connect();
  // Likewise for whoever connects there first. Returns the path.
  Result<std::string> listen_at(const std::string& path);
  bool ended() const { return ended_; }
  // What the server did that it must not.
  std::vector<std::string> complaints() const;

 private:
  Guest(std::unique_ptr<hypervisor::local::LocalDomain> domain, hypervisor::Port port)
      : domain_(std::move(domain)), port_(port) {}
  void carry();
  bool carry_some();
  void wait();
  std::size_t write_requests();
  std::size_t read_responses();
  void complain(std::string what);

  std::unique_ptr<hypervisor::local::LocalDomain> domain_;
  hypervisor::Port port_;
  UniqueFd listener_;
  UniqueFd socket_;  // the driver's end
  std::string to_ring_;
  std::string to_client_;
  std::uint32_t consumed_ = 0;  // the server's indexes as they were last
  std::uint32_t produced_ = 0;
  bool hung_up_ = false;
  std::atomic<bool> ended_ = false;
  mutable std::mutex mutex_;
  std::vector<std::string> complaints_;
  std::function<void()> at_end_;
  std::thread thread_;
};

// A socket of which every connection is a domain of its own: made, introduced by the toolstack, and destroyed
// with the connection.
class GuestProxy {
 public:
  // `machine`: socket of the local hypervisor; `xenstore`: of the service, for the toolstack.
  static Result<std::unique_ptr<GuestProxy>> listen(const std::string& path, const std::string& machine,
                                                    const std::string& xenstore);
  ~GuestProxy();
  GuestProxy(const GuestProxy&) = delete;
  GuestProxy& operator=(const GuestProxy&) = delete;

  int guests() const { return made_; }
  // Ends all guests; what the server did wrong to any there were.
  std::vector<std::string> finish();

 private:
  explicit GuestProxy(std::string machine) : machine_(std::move(machine)) {}
  void serve();
  void accept();
  Result<std::unique_ptr<Guest>> make_guest();
  void bury(bool all);

  std::string machine_;
  xs::AnomalyLog log_;
  std::unique_ptr<xs::XsClient> toolstack_;
  UniqueFd listener_;
  UniqueFd bell_;  // somebody has ended, or the proxy shall
  std::atomic<bool> stopping_ = false;
  std::atomic<int> made_ = 0;
  std::vector<std::string> complaints_;  // this and guests_: of the thread, while it runs
  std::vector<std::unique_ptr<Guest>> guests_;
  std::thread thread_;
};

}  // namespace bulkhead::testing
