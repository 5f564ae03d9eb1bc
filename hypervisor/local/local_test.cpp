// What is special about the local hypervisor: hostile frontends, processes that die, limits. What every
// implementation does: conformance_test.cpp.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "hypervisor/conformance/kind.h"
#include "hypervisor/local/frontend.h"
#include "hypervisor/local/machine_process.h"
#include "runtime/seqpacket.h"

namespace bulkhead::hypervisor::local {
namespace {

std::unique_ptr<MachineProcess> start_machine() {
  auto machine = MachineProcess::start(BULKHEAD_BIN "/bulkhead-local-hypervisor");
  if (!machine) ADD_FAILURE() << machine.error().message();
  return machine ? std::move(*machine) : nullptr;
}

class LocalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    machine_ = start_machine();
    ASSERT_NE(machine_, nullptr);
    hypervisor_ = backend();
    guest_ = domain({});
    ASSERT_TRUE(hypervisor_ != nullptr && guest_ != nullptr);
  }

  std::unique_ptr<Hypervisor> backend() const {
    auto opened = open(machine_->spec());
    return opened ? std::move(*opened) : nullptr;
  }
  std::unique_ptr<LocalDomain> domain(const LocalDomain::Options& options) const {
    auto created = LocalDomain::create(machine_->socket(), options);
    return created ? std::move(*created) : nullptr;
  }
  // A backend with an events descriptor of its own.
  std::unique_ptr<Hypervisor> backend_with_events() const {
    auto opened = backend();
    auto events = opened->make_events();
    if (!events || !opened->use_events(events->borrow())) return nullptr;
    return opened;
  }
  Result<std::unique_ptr<Pages>> map(GrantRef ref, Access access = Access::kReadOnly) {
    return hypervisor_->map(guest_->domid(), {&ref, 1}, access);
  }
  ErrorKind refusal_of(const GrantEntry& entry) {
    guest_->grant_word(8).store(entry.word());
    return kind(map(8));
  }

  UniqueFd raw_connection() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, machine_->socket().data(), machine_->socket().size());
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }
  bool machine_serves() const {
    auto opened = open(machine_->spec());
    return opened.has_value() && (*opened)->domains().has_value();
  }

  std::unique_ptr<MachineProcess> machine_;
  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<LocalDomain> guest_;
};

// ---- the grant table ----

TEST_F(LocalTest, AHostileGrantTableGrantsNothingElse) {
  const auto frames = static_cast<std::uint32_t>(guest_->pages());
  ASSERT_TRUE(guest_->grant_word(8).is_lock_free());
  EXPECT_EQ(refusal_of({GrantEntry::kPermitAccess, 0, frames}), ErrorKind::kRefused);
  EXPECT_EQ(refusal_of({GrantEntry::kPermitAccess, 0, 0xFFFFFFFF}), ErrorKind::kRefused);
  EXPECT_EQ(refusal_of({GrantEntry::kPermitAccess, 1, 0}), ErrorKind::kRefused);
  EXPECT_EQ(refusal_of({2, 0, 0}), ErrorKind::kRefused);  // GTF_accept_transfer
  EXPECT_EQ(refusal_of({3, 0, 0}), ErrorKind::kRefused);  // GTF_transitive
  EXPECT_EQ(kind(map(kMaxGrants)), ErrorKind::kRefused);
  guest_->grant(kMaxGrants - 1, guest_->pages() - 1, Access::kReadOnly);
  EXPECT_TRUE(map(kMaxGrants - 1).has_value());
}

// Between one look at the entry and the next it is another one: what is mapped is what was checked.
TEST_F(LocalTest, AnEntryThatChangesUnderOurEyesIsOneOrTheOther) {
  std::memset(guest_->page(3).data(), 3, kPageBytes);
  const GrantEntry good{GrantEntry::kPermitAccess, 0, 3};
  const GrantEntry bad{GrantEntry::kPermitAccess, 0, 0xFFFF0000};
  std::atomic<bool> stop = false;
  std::thread changing([&] {
    while (!stop) {
      guest_->grant_word(8).store(good.word());
      guest_->grant_word(8).store(bad.word());
    }
  });
  int mapped_times = 0;
  for (int i = 0; i < 1'000'000 && mapped_times < 100; ++i) {
    auto mapped = map(8);
    if (!mapped) continue;
    ++mapped_times;
    EXPECT_EQ((*mapped)->data()[kPageBytes - 1], std::byte{3});
  }
  stop = true;
  changing.join();
  EXPECT_EQ(mapped_times, 100);
}

TEST_F(LocalTest, WhatIsRevokedIsNotMappedAgain) {
  guest_->grant(9, 1, Access::kReadWrite);
  auto mapped = map(9, Access::kReadWrite);
  ASSERT_TRUE(mapped.has_value());
  guest_->revoke(9);
  EXPECT_EQ(kind(map(9)), ErrorKind::kRefused);
  (*mapped)->data()[0] = std::byte{1};
  EXPECT_EQ(guest_->page(1)[0], std::byte{1});
}

TEST_F(LocalTest, ADomidBelongsToAnotherDomainLater) {
  auto first = hypervisor_->map_xenstore_page(guest_->domid());
  ASSERT_TRUE(first.has_value());
  const Domid domid = guest_->domid();
  guest_.reset();
  // Its end is the machine's to notice, and takes effect before what is asked afterwards only if it came
  // first.
  std::unique_ptr<LocalDomain> again;
  while (again == nullptr) again = domain({.domid = domid});
  again->xenstore_page()[0] = std::byte{2};
  auto second = hypervisor_->map_xenstore_page(domid);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ((*second)->data()[0], std::byte{2});
  EXPECT_EQ((*first)->data()[0], std::byte{0});
}

// ---- who may be a domain ----

class DomainMemory : public LocalTest {
 protected:
  ErrorKind refusal_of_memory(BorrowedFd memory) {
    auto connection = Connection::open(machine_->socket());
    Request request;
    request.set_operation(CREATE_DOMAIN);
    request.set_any_domid(true);
    return kind(connection->call(request, 0, {memory}));
  }
};

TEST_F(DomainMemory, HasToBeAMemfdThatCannotShrink) {
  for (const int seals : {0, F_SEAL_GROW, F_SEAL_SHRINK}) {
    const UniqueFd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(loose.get(), static_cast<off_t>(page_offset(4))), 0);
    ASSERT_EQ(::fcntl(loose.get(), F_ADD_SEALS, seals), 0);
    EXPECT_EQ(refusal_of_memory(loose.borrow()), ErrorKind::kInvalid);
  }
  auto small = create_memfd("small", kGrantTableBytes);
  EXPECT_EQ(refusal_of_memory(small->borrow()), ErrorKind::kInvalid);
  auto odd = create_memfd("odd", page_offset(1) + 1);
  EXPECT_EQ(refusal_of_memory(odd->borrow()), ErrorKind::kInvalid);
  auto huge = create_memfd("huge", page_offset(kMaxDomainPages + 1));
  EXPECT_EQ(refusal_of_memory(huge->borrow()), ErrorKind::kInvalid);
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(refusal_of_memory(socket.borrow()), ErrorKind::kInvalid);
}

TEST_F(LocalTest, ADomidIsGivenOnce) {
  auto again = LocalDomain::create(machine_->socket(), {.domid = guest_->domid()});
  EXPECT_EQ(kind(again), ErrorKind::kRefused);
  auto reserved = LocalDomain::create(machine_->socket(), {.domid = kFirstReservedDomid});
  EXPECT_EQ(kind(reserved), ErrorKind::kInvalid);
  EXPECT_NE(domain({})->domid(), guest_->domid());
}

TEST_F(LocalTest, OnlyDomainZeroHasTheXenstorePort) {
  auto port = guest_->allocate_port();
  ASSERT_TRUE(port.has_value());
  EXPECT_EQ(kind(guest_->set_xenstore_port(*port)), ErrorKind::kRefused);
  auto kernel = domain({.domid = 0});
  ASSERT_NE(kernel, nullptr);
  EXPECT_EQ(kind(kernel->set_xenstore_port(77)), ErrorKind::kRefused);
  EXPECT_EQ(kind(kernel->shut_down()), ErrorKind::kRefused);
  EXPECT_EQ(kind(kernel->destroy()), ErrorKind::kRefused);
}

TEST_F(LocalTest, AfterItsDestructionADomainCanDoNothing) {
  auto port = guest_->allocate_port();
  ASSERT_TRUE(port.has_value());
  hypervisor_ = backend_with_events();
  ASSERT_TRUE(guest_->destroy().has_value());
  EXPECT_FALSE(guest_->allocate_port().has_value());
  EXPECT_FALSE(guest_->destroy().has_value());
  EXPECT_EQ(kind(hypervisor_->bind(guest_->domid(), *port)), ErrorKind::kRefused);
}

// ---- event channels ----

TEST_F(LocalTest, AFrontendThatTakesNoEventsHoldsUpNobody) {
  hypervisor_ = backend_with_events();
  auto port = hypervisor_->bind(guest_->domid(), *guest_->allocate_port());
  ASSERT_TRUE(port.has_value());
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(hypervisor_->notify(*port).has_value());
  ASSERT_TRUE(guest_->take_event()->has_value());
  EXPECT_FALSE(guest_->take_event()->has_value());
}

TEST_F(LocalTest, ToNotifyADomainThatHasGoneIsNoFailure) {
  hypervisor_ = backend_with_events();
  auto ended = hypervisor_->domain_events();
  auto port = hypervisor_->bind(guest_->domid(), *guest_->allocate_port());
  ASSERT_TRUE(port.has_value() && ended.has_value());
  guest_.reset();
  std::optional<Port> event;
  while (event != *ended) event = hypervisor_->take_event()->value_or(0);
  EXPECT_TRUE(hypervisor_->notify(*port).has_value());
  EXPECT_TRUE(hypervisor_->unbind(*port).has_value());
  EXPECT_EQ(kind(hypervisor_->notify(*port)), ErrorKind::kNotFound);
}

TEST_F(LocalTest, ABindingOfADescriptorThatNobodyUsesGivesWay) {
  auto first = backend_with_events();
  const Port remote = *guest_->allocate_port();
  ASSERT_TRUE(first->bind(guest_->domid(), remote).has_value());
  auto second = backend_with_events();
  EXPECT_EQ(kind(second->bind(guest_->domid(), remote)), ErrorKind::kRefused);
  EXPECT_FALSE(second->find_binding(guest_->domid(), remote)->has_value());  // it is not one of ours
  first.reset();
  Result<Port> bound = failure(ErrorKind::kRefused, "");
  while (!bound && bound.error().kind() == ErrorKind::kRefused) bound = second->bind(guest_->domid(), remote);
  ASSERT_TRUE(bound.has_value()) << bound.error().message();
  EXPECT_EQ(*second->take_event(), *bound);
}

TEST_F(LocalTest, ADomainHasSoManyPortsAndNoMore) {
  Result<Port> port = 0;
  int ports = 0;
  while ((port = guest_->allocate_port()) && ports < 10'000) ++ports;
  EXPECT_EQ(kind(port), ErrorKind::kExhausted);
  EXPECT_GE(ports, 64);
  EXPECT_TRUE(domain({})->allocate_port().has_value());
}

TEST_F(LocalTest, EventsHaveToBeAnEpollInstance) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(kind(hypervisor_->use_events(socket.borrow())), ErrorKind::kInvalid);
  EXPECT_EQ(kind(hypervisor_->bind(guest_->domid(), 1)), ErrorKind::kRefused);
}

TEST_F(LocalTest, EventsDescriptorsThatNobodyUsesMakeRoom) {
  for (int i = 0; i < 200; ++i) ASSERT_NE(backend_with_events(), nullptr) << i;
}

// ---- hostile clients of the machine ----

TEST_F(LocalTest, NonsenseEndsTheConnectionAndNothingElse) {
  for (const std::string_view nonsense : {"\xFF\xFF\xFF\xFF", "\x08", "x"}) {
    const UniqueFd socket = raw_connection();
    ASSERT_GT(::send(socket.get(), nonsense.data(), nonsense.size(), MSG_NOSIGNAL), 0);
    std::byte reply{};
    EXPECT_LE(::recv(socket.get(), &reply, 1, 0), 0);
  }
  const UniqueFd socket = raw_connection();
  Request request;
  request.set_operation(static_cast<Operation>(4711));
  ASSERT_TRUE(send_packet(socket.borrow(), request, {socket.borrow(), socket.borrow()}).has_value());
  EXPECT_TRUE(machine_serves());
}

TEST_F(LocalTest, WhoDoesNotReadRepliesIsCutOff) {
  const UniqueFd socket = raw_connection();
  Request request;
  request.set_operation(HELLO);
  Status sent;
  // Ends when the machine has closed the connection; until then it takes request after request.
  while (sent || sent.error().kind() == ErrorKind::kExhausted) sent = send_packet(socket.borrow(), request);
  EXPECT_EQ(kind(sent), ErrorKind::kDisconnected);
  EXPECT_TRUE(machine_serves());
}

TEST_F(LocalTest, WithoutDescriptorsItWaitsUntilSomeAreFree) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the undefined-behaviour sanitizer needs a free descriptor to look at an object's type";
#endif
  const rlimit few{32, 32};
  ASSERT_EQ(::prlimit(machine_->process().pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  std::vector<UniqueFd> crowd;
  for (int i = 0; i < 64; ++i) crowd.push_back(raw_connection());
  // Between ports and connections they are used up; those who are connected are served.
  Result<Port> port = 0;
  while (port) port = guest_->allocate_port();
  EXPECT_EQ(kind(port), ErrorKind::kFailed) << port.error().message();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(hypervisor_->domains().has_value());
  crowd.clear();
  guest_.reset();
  EXPECT_TRUE(machine_serves());
  EXPECT_NE(domain({}), nullptr);
}

// ---- the machine ----

TEST_F(LocalTest, WhereNobodyListensThereIsNoMachine) {
  EXPECT_EQ(kind(open("local:/nonexistent/socket")), ErrorKind::kNotFound);
  EXPECT_EQ(kind(open("local:")), ErrorKind::kInvalid);
  EXPECT_EQ(kind(open("vmware")), ErrorKind::kInvalid);
}

TEST_F(LocalTest, WithTheMachineEverythingEnds) {
  auto page = hypervisor_->map_xenstore_page(guest_->domid());
  ASSERT_TRUE(page.has_value());
  machine_.reset();
  EXPECT_EQ(kind(hypervisor_->domains()), ErrorKind::kDisconnected);
  EXPECT_EQ(kind(guest_->allocate_port()), ErrorKind::kDisconnected);
  (*page)->data()[0] = std::byte{1};
}

}  // namespace
}  // namespace bulkhead::hypervisor::local
