#include "hypervisor/local/local_hypervisor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>

#include "hypervisor/local/local_pages.h"

namespace bulkhead::hypervisor::local {
namespace {

constexpr std::uint16_t kOurDomid = 0;

// Where the granted page is in the domain's memory. The entry may change at any time: one look is all it
// gets.
Result<std::size_t> granted_page(const Pages& table, std::uint32_t pages, GrantRef ref, Access access) {
  const std::string name = "grant " + std::to_string(ref);
  if (ref >= kMaxGrants) return failure(ErrorKind::kRefused, name + " is beyond the table");
  const auto* words = reinterpret_cast<const GrantWord*>(table.data());
  const auto entry = GrantEntry::from_word(words[ref].load(std::memory_order_acquire));
  if ((entry.flags & GrantEntry::kTypeMask) != GrantEntry::kPermitAccess || entry.domid != kOurDomid) {
    return failure(ErrorKind::kRefused, name + " is not granted to us");
  }
  if (access == Access::kReadWrite && (entry.flags & GrantEntry::kReadOnly) != 0) {
    return failure(ErrorKind::kRefused, name + " is for reading only");
  }
  if (entry.frame >= pages) return failure(ErrorKind::kRefused, name + " is of no page of the domain");
  return page_offset(entry.frame);
}

}  // namespace

Result<std::unique_ptr<Hypervisor>> LocalHypervisor::open(const std::string& path) {
  auto connection = Connection::open(path);
  if (!connection) return forward(std::move(connection));
  Request hello;
  hello.set_operation(HELLO);
  auto answer = connection->call(hello, 1);
  if (!answer) return forward(std::move(answer));
  const std::size_t pages = (sizeof(LivingTable) + kPageBytes - 1) / kPageBytes;
  auto living = map_range(answer->fds[0].borrow(), 0, pages, Access::kReadOnly);
  if (!living) return forward(std::move(living));
  return std::unique_ptr<Hypervisor>(new LocalHypervisor(std::move(*connection), std::move(*living)));
}

Result<Answer> LocalHypervisor::ask(Operation operation, Domid domid, Port port, std::size_t fds_expected) {
  Request request;
  request.set_operation(operation);
  request.set_domid(domid);
  request.set_port(port);
  return connection_.call(request, fds_expected);
}

// ---- memory ----

bool LocalHypervisor::lives(const Memory& memory) const {
  const auto* table = reinterpret_cast<const LivingTable*>(living_->data());
  return table->generation[memory.slot].load(std::memory_order_acquire) == memory.generation;
}

Result<LocalHypervisor::Memory> LocalHypervisor::fetch_memory(Domid domid) {
  auto answer = ask(MEMORY, domid, 0, 1);
  if (!answer) return forward(std::move(answer));
  const auto& told = answer->reply.memory();
  Memory memory{std::move(answer->fds[0]), nullptr, told.pages(), told.slot(), told.generation()};
  if (memory.slot >= kMaxDomains)
    return failure(ErrorKind::kInvalid, "the local hypervisor answers nonsense");
  auto table = map_range(memory.memfd.borrow(), 0, kGrantTablePages, Access::kReadOnly);
  if (!table) return forward(std::move(table));
  memory.grant_table = std::move(*table);
  return memory;
}

Result<const LocalHypervisor::Memory*> LocalHypervisor::memory_of(Domid domid) {
  const auto found = memories_.find(domid);
  if (found != memories_.end() && lives(found->second)) return &found->second;
  std::erase_if(memories_, [this](const auto& entry) { return !lives(entry.second); });
  auto memory = fetch_memory(domid);
  if (!memory) return forward(std::move(memory));
  return &(memories_[domid] = std::move(*memory));
}

Result<std::unique_ptr<Pages>> LocalHypervisor::map(Domid domid, std::span<const GrantRef> refs,
                                                    Access access) {
  if (refs.empty() || refs.size() > kMaxGrants) {
    return failure(ErrorKind::kInvalid, "cannot map " + std::to_string(refs.size()) + " grants");
  }
  auto memory = memory_of(domid);
  if (!memory) return forward(std::move(memory));
  std::vector<std::size_t> offsets;
  offsets.reserve(refs.size());
  for (const GrantRef ref : refs) {
    auto page = granted_page(*(*memory)->grant_table, (*memory)->pages, ref, access);
    if (!page) return forward(std::move(page), "domain " + std::to_string(domid));
    offsets.push_back(*page);
  }
  return map_pages((*memory)->memfd.borrow(), offsets, access);
}

Result<std::unique_ptr<Pages>> LocalHypervisor::map_xenstore_page(Domid domid) {
  const GrantRef ref = kXenstoreGrant;
  return map(domid, {&ref, 1}, Access::kReadWrite);
}

// ---- event channels ----

Result<UniqueFd> LocalHypervisor::make_events() {
  UniqueFd events(::epoll_create1(EPOLL_CLOEXEC));
  if (!events.valid()) return os_failure("cannot create an events descriptor");
  return events;
}

Status LocalHypervisor::use_events(BorrowedFd events) {
  if (events_.valid()) return failure(ErrorKind::kRefused, "an events descriptor is in use already");
  UniqueFd copy(::fcntl(events.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return os_failure("cannot use the events descriptor");
  Request request;
  request.set_operation(USE_EVENTS);
  auto answer = connection_.call(request, 0, {copy.borrow()});
  if (!answer) return forward(std::move(answer));
  events_ = std::move(copy);
  return {};
}

Result<std::optional<Port>> LocalHypervisor::take_event() {
  epoll_event event{};
  const int got = ::epoll_wait(events_.get(), &event, 1, 0);
  if (got < 0 && errno != EINTR) return os_failure("cannot take an event");
  if (got <= 0) return std::optional<Port>();
  return std::optional(static_cast<Port>(event.data.u64));
}

// Nothing is masked: a signal after take_event() is pending again at once, before unmask() as after it.
Status LocalHypervisor::unmask(Port) {
  return {};
}

Result<BorrowedFd> LocalHypervisor::signal_of(Port port) {
  const auto found = signals_.find(port);
  if (found != signals_.end()) return found->second.borrow();
  // Bound by a predecessor.
  auto answer = ask(SIGNAL_OF, 0, port, 1);
  if (!answer) return forward(std::move(answer));
  return (signals_[port] = std::move(answer->fds[0])).borrow();
}

Status LocalHypervisor::notify(Port port) {
  auto signal = signal_of(port);
  if (!signal) return forward(std::move(signal));
  const std::byte datagram{};
  if (::send(signal->get(), &datagram, sizeof datagram, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return {};
  switch (errno) {
    case EAGAIN:        // it has signals that it has not taken
    case ECONNREFUSED:  // the domain has gone: Xen, too, drops the signal without a word
    case ECONNRESET:
    case ENOTCONN:
    case EPIPE:
      return {};
    default:
      return os_failure("cannot notify port " + std::to_string(port));
  }
}

Result<Port> LocalHypervisor::bind(Domid domid, Port remote) {
  auto answer = ask(BIND, domid, remote, 1);
  if (!answer) {
    return forward(std::move(answer),
                   "port " + std::to_string(remote) + " of domain " + std::to_string(domid));
  }
  const Port port = answer->reply.port();
  signals_[port] = std::move(answer->fds[0]);
  return port;
}

Result<std::optional<Port>> LocalHypervisor::find_binding(Domid domid, Port remote) {
  auto answer = ask(FIND_BINDING, domid, remote);
  if (!answer) return forward(std::move(answer));
  const Port port = answer->reply.port();
  return port == 0 ? std::optional<Port>() : port;
}

Result<std::optional<Port>> LocalHypervisor::remote_of(Domid domid, Port port) {
  auto answer = ask(REMOTE_OF, domid, port);
  if (!answer) return forward(std::move(answer));
  const Port remote = answer->reply.port();
  return remote == 0 ? std::optional<Port>() : remote;
}

Status LocalHypervisor::unbind(Port port) {
  signals_.erase(port);
  auto answer = ask(UNBIND, 0, port);
  if (!answer) return forward(std::move(answer), "port " + std::to_string(port));
  return {};
}

Result<Port> LocalHypervisor::domain_events() {
  auto answer = ask(DOMAIN_EVENTS);
  if (!answer) return forward(std::move(answer));
  return answer->reply.port();
}

Result<Port> LocalHypervisor::xenstore_port() {
  auto answer = ask(XENSTORE_PORT);
  if (!answer) return forward(std::move(answer));
  return answer->reply.port();
}

// ---- domains ----

Result<std::vector<Domain>> LocalHypervisor::domains() {
  auto answer = ask(DOMAINS);
  if (!answer) return forward(std::move(answer));
  std::vector<Domain> domains;
  for (const auto& entry : answer->reply.domains()) {
    domains.push_back({entry.domid(), entry.shut_down(), entry.dying()});
  }
  return domains;
}

Result<std::optional<Domain>> LocalHypervisor::domain(Domid domid) {
  auto all = domains();
  if (!all) return forward(std::move(all));
  const auto found =
      std::find_if(all->begin(), all->end(), [domid](const Domain& entry) { return entry.domid == domid; });
  return found == all->end() ? std::optional<Domain>() : *found;
}

}  // namespace bulkhead::hypervisor::local
