#include "tests/support/component_host.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "runtime/clock.h"
#include "runtime/instance.h"
#include "runtime/lease.h"
#include "runtime/seqpacket.h"

namespace bulkhead::testing {
namespace {

constexpr int kContractFd = 3;
constexpr int kRingFd = 4;

Result<UniqueFd> listen_at(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return os_failure("cannot create a socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return os_failure("cannot bind " + path);
  }
  if (::listen(socket.get(), 1024) != 0) return os_failure("cannot listen at " + path);
  return socket;
}

// Moves the two descriptors to their agreed numbers; only async-signal-safe calls.
void arrange_descriptors(int contract, int ring) {
  const int high_contract = ::fcntl(contract, F_DUPFD, 100);
  const int high_ring = ::fcntl(ring, F_DUPFD, 100);
  ::dup2(high_contract, kContractFd);
  ::dup2(high_ring, kRingFd);
  ::close(high_contract);
  ::close(high_ring);
}

}  // namespace

Result<std::unique_ptr<ComponentHost>> ComponentHost::create(Options options) {
  std::unique_ptr<ComponentHost> host(new ComponentHost(std::move(options)));
  if (auto prepared = host->prepare(); !prepared) return forward(std::move(prepared));
  return host;
}

Status ComponentHost::prepare() {
  std::string pattern = "/tmp/bulkhead-test.XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) return os_failure("cannot make a directory");
  directory_ = pattern;
  socket_path_ = directory_ + "/socket";
  auto listener = listen_at(socket_path_);
  if (!listener) return forward(std::move(listener));
  custody_["listener"] = {"socket", std::move(*listener)};
  auto lease = Lease::create();
  if (!lease) return forward(std::move(lease));
  custody_["lease"] = {"segment", std::move(*lease)};
  io_uring ring{};
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN;
  params.cq_entries = options_.ring_entries * 8;
  const int rc = io_uring_queue_init_params(options_.ring_entries, &ring, &params);
  if (rc != 0) return os_failure("cannot make a ring", -rc);
  ring_ = UniqueFd(::fcntl(ring.ring_fd, F_DUPFD_CLOEXEC, 0));
  io_uring_queue_exit(&ring);
  ring_params_.assign(reinterpret_cast<const char*>(&params), sizeof params);
  return {};
}

ComponentHost::~ComponentHost() {
  // Standbys first: nobody shall take over at the very end.
  for (auto it = instances_.rbegin(); it != instances_.rend(); ++it) {
    if (it->ended_) continue;
    (void)it->process_.signal(SIGKILL);
  }
  wait_until([this] { return std::ranges::all_of(instances_, [](const Instance& i) { return i.ended_; }); });
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

Result<ComponentHost::Instance*> ComponentHost::launch(const BeforeExec& before_exec) {
  auto contract = seqpacket_pair();
  if (!contract) return forward(std::move(contract));
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return os_failure("cannot fork");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    arrange_descriptors(contract->second.get(), ring_.get());
    ::setenv(kContractFdVariable, "3", 1);
    ::setenv(kRingFdVariable, "4", 1);
    if (before_exec) before_exec();
    ::execl(options_.program.c_str(), options_.program.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  Instance& instance = instances_.emplace_back();
  auto process = PidFd::open(pid);
  if (!process) return forward(std::move(process));
  instance.process_ = std::move(*process);
  instance.contract_ = std::move(contract->first);
  if (auto greeted = greet(instance); !greeted) return forward(std::move(greeted));
  return &instance;
}

Status ComponentHost::greet(Instance& instance) {
  auto vitals = create_memfd("vitals", kVitalsBytes);
  if (!vitals) return forward(std::move(vitals));
  auto page = Mapping::map(vitals->borrow(), kVitalsBytes);
  if (!page) return forward(std::move(page));
  instance.vitals_page_ = std::move(*page);
  instance.wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  contract::v1::ToInstance message;
  auto* welcome = message.mutable_welcome();
  welcome->set_contract_version(kContractVersion);
  welcome->set_component("test");
  welcome->set_instance(next_instance_++);
  welcome->mutable_settings()->insert(options_.settings.begin(), options_.settings.end());
  welcome->set_ring_params(ring_params_);
  welcome->set_log_level(options_.log_level);
  if (auto sent =
          send_packet(instance.contract_.borrow(), message, {vitals->borrow(), instance.wake_.borrow()});
      !sent) {
    return sent;
  }
  for (const auto& [name, item] : custody_) {
    contract::v1::ToInstance deposited;
    deposited.mutable_deposited()->set_name(name);
    deposited.mutable_deposited()->set_kind(item.kind);
    if (auto sent = send_packet(instance.contract_.borrow(), deposited, {item.fd.borrow()}); !sent)
      return sent;
  }
  contract::v1::ToInstance complete;
  complete.mutable_custody_complete();
  return send(instance, complete);
}

Status ComponentHost::send(Instance& instance, const contract::v1::ToInstance& message) {
  return send_packet(instance.contract_.borrow(), message);
}

Status ComponentHost::inject(Instance& instance, const std::string& kind, const std::string& argument,
                             int seconds) {
  contract::v1::ToInstance message;
  auto* fault = message.mutable_fault();
  fault->set_id(next_fault_++);
  fault->set_kind(kind);
  fault->set_argument(argument);
  fault->set_expires_monotonic_ns(monotonic_ns() + seconds * kSecond);
  return send(instance, message);
}

void ComponentHost::kill(Instance& instance) {
  (void)instance.process_.signal(SIGKILL);
}

void ComponentHost::ping(Instance& instance) {
  instance.vitals().ping_ns.store(monotonic_ns());
  instance.vitals().ping.fetch_add(1);
  const std::uint64_t one = 1;
  (void)!::write(instance.wake_.get(), &one, sizeof one);
}

void ComponentHost::pump(int wait_ms) {
  std::vector<pollfd> fds;
  std::vector<Instance*> owners;
  for (Instance& instance : instances_) {
    if (instance.ended_) continue;
    fds.push_back({instance.contract_.get(), POLLIN, 0});
    fds.push_back({instance.process_.fd().get(), POLLIN, 0});
    owners.push_back(&instance);
  }
  if (::poll(fds.data(), fds.size(), wait_ms) <= 0) return;
  for (std::size_t i = 0; i < owners.size(); ++i) {
    if (fds[2 * i].revents != 0) handle(*owners[i]);
    if (fds[2 * i + 1].revents == 0) continue;
    if (const auto status = owners[i]->process_.reap()) {
      handle(*owners[i]);  // its last words
      owners[i]->exit_ = *status;
      owners[i]->ended_ = true;
    }
  }
}

void ComponentHost::handle(Instance& instance) {
  for (;;) {
    auto packet = receive_packet(instance.contract_.borrow());
    if (!packet || !*packet) return;
    contract::v1::FromInstance message;
    if (!message.ParseFromString((*packet)->bytes)) continue;
    switch (message.body_case()) {
      case contract::v1::FromInstance::kHello:
        instance.hello_ = message.hello();
        break;
      case contract::v1::FromInstance::kDeposit:
        if ((*packet)->fds.size() == 1) deposit(instance, message.deposit(), std::move((*packet)->fds[0]));
        break;
      case contract::v1::FromInstance::kWithdraw:
        withdraw(message.withdraw());
        break;
      case contract::v1::FromInstance::kReady:
        instance.ready_ = true;
        break;
      case contract::v1::FromInstance::kActive:
        instance.active_ = true;
        instance.takeover_ = message.active();
        break;
      case contract::v1::FromInstance::kFinding:
        instance.findings_.push_back(message.finding());
        break;
      default:
        break;
    }
  }
}

void ComponentHost::deposit(Instance& from, const contract::v1::CustodyItem& item, UniqueFd fd) {
  if (custody_.contains(item.name())) {
    contract::v1::ToInstance refused;
    refused.mutable_deposit_refused()->set_name(item.name());
    refused.mutable_deposit_refused()->set_why("another descriptor is held under this name");
    (void)send(from, refused);
    return;
  }
  for (Instance& other : instances_) {
    if (&other == &from || other.ended_) continue;
    contract::v1::ToInstance message;
    *message.mutable_deposited() = item;
    (void)send_packet(other.contract_.borrow(), message, {fd.borrow()});
  }
  custody_[item.name()] = {item.kind(), std::move(fd)};
  contract::v1::ToInstance accepted;
  accepted.mutable_deposit_accepted()->set_name(item.name());
  (void)send(from, accepted);
}

void ComponentHost::withdraw(const std::string& item) {
  custody_.erase(item);
  contract::v1::ToInstance message;
  message.set_withdrawn(item);
  for (Instance& instance : instances_) {
    if (!instance.ended_) (void)send(instance, message);
  }
}

Result<Mapping> ComponentHost::map(const std::string& item, std::size_t bytes) const {
  return Mapping::map(custody_.at(item).fd.borrow(), bytes);
}

pid_t ComponentHost::owner() const {
  const auto lease = Lease::open(custody_.at("lease").fd.borrow());
  return lease ? lease->owner().pid : 0;
}

bool ComponentHost::wait_until(const std::function<bool()>& condition, int deadline_ms) {
  const std::int64_t deadline = monotonic_ns() + deadline_ms * kMillisecond;
  while (!condition()) {
    if (monotonic_ns() > deadline) return false;
    pump(10);
  }
  return true;
}

ComponentHost::Instance* ComponentHost::active() {
  for (Instance& instance : instances_) {
    if (instance.active_ && !instance.ended_) return &instance;
  }
  return nullptr;
}

ComponentHost::Instance* ComponentHost::ready_standby() {
  for (Instance& instance : instances_) {
    if (instance.ready_ && !instance.active_ && !instance.ended_) return &instance;
  }
  return nullptr;
}

std::size_t ComponentHost::living() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(instances_, [](const Instance& i) { return !i.ended_; }));
}

void ComponentHost::forget_ended() {
  instances_.remove_if([](const Instance& instance) { return instance.ended_; });
}

}  // namespace bulkhead::testing
