#include "hypervisor/local/frontend.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

namespace bulkhead::hypervisor::local {

Result<std::unique_ptr<LocalDomain>> LocalDomain::create(const std::string& path, const Options& options) {
  if (options.pages == 0 || options.pages > kMaxDomainPages) {
    return failure(ErrorKind::kInvalid, "a domain of " + std::to_string(options.pages) + " pages");
  }
  auto memfd = create_memfd("domain", page_offset(options.pages));
  if (!memfd) return forward(std::move(memfd));
  auto memory = Mapping::map(memfd->borrow(), page_offset(options.pages));
  if (!memory) return forward(std::move(memory));
  UniqueFd events(::epoll_create1(EPOLL_CLOEXEC));
  if (!events.valid()) return os_failure("cannot create an epoll instance");
  auto connection = Connection::open(path);
  if (!connection) return forward(std::move(connection));

  // Before anybody can see the domain.
  const GrantEntry xenstore{.flags = GrantEntry::kPermitAccess, .domid = 0, .frame = 0};
  memory->at<GrantWord>(0)[kXenstoreGrant].store(xenstore.word(), std::memory_order_release);
  Request request;
  request.set_operation(CREATE_DOMAIN);
  request.set_domid(options.domid.value_or(0));
  request.set_any_domid(!options.domid);
  auto answer = connection->call(request, 0, {memfd->borrow()});
  if (!answer) return forward(std::move(answer), "cannot create a domain");
  return std::unique_ptr<LocalDomain>(
      new LocalDomain(std::move(*connection), std::move(*memory), std::move(events), answer->reply.domid()));
}

Status LocalDomain::ask(Operation operation, Port port) {
  Request request;
  request.set_operation(operation);
  request.set_port(port);
  auto answer = connection_.call(request, 0);
  if (!answer) return forward(std::move(answer), "domain " + std::to_string(domid_));
  return {};
}

std::span<std::byte> LocalDomain::page(std::size_t index) const {
  return memory_.bytes().subspan(page_offset(index), kPageBytes);
}

GrantWord& LocalDomain::grant_word(GrantRef ref) const {
  return memory_.at<GrantWord>(0)[ref];
}

void LocalDomain::grant(GrantRef ref, std::size_t page, Access access) {
  GrantEntry entry{GrantEntry::kPermitAccess, 0, static_cast<std::uint32_t>(page)};
  if (access == Access::kReadOnly) entry.flags |= GrantEntry::kReadOnly;
  grant_word(ref).store(entry.word(), std::memory_order_release);
}

void LocalDomain::revoke(GrantRef ref) {
  grant_word(ref).store(0, std::memory_order_release);
}

Result<Port> LocalDomain::allocate_port() {
  Request request;
  request.set_operation(ALLOCATE_PORT);
  auto answer = connection_.call(request, 2);
  if (!answer) return forward(std::move(answer), "domain " + std::to_string(domid_));
  const Port port = answer->reply.port();
  Channel channel{std::move(answer->fds[0]), std::move(answer->fds[1])};
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = port;
  if (::epoll_ctl(events_.get(), EPOLL_CTL_ADD, channel.receive.get(), &event) != 0) {
    return os_failure("cannot watch an event channel");
  }
  channels_.emplace(port, std::move(channel));
  return port;
}

Status LocalDomain::notify(Port port) {
  const auto found = channels_.find(port);
  if (found == channels_.end()) return failure(ErrorKind::kNotFound, "no port " + std::to_string(port));
  if (::eventfd_write(found->second.signal.get(), 1) == 0 || errno == EAGAIN) return {};
  return os_failure("cannot notify port " + std::to_string(port));
}

Result<std::optional<Port>> LocalDomain::take_event() {
  epoll_event event{};
  const int got = ::epoll_wait(events_.get(), &event, 1, 0);
  if (got < 0 && errno != EINTR) return os_failure("cannot take an event");
  if (got <= 0) return std::optional<Port>();
  const auto port = static_cast<Port>(event.data.u64);
  const UniqueFd& receive = channels_.at(port).receive;
  std::byte datagram{};
  // All of them are one event. Bounded by the queue's length, in case the backend sends as fast as we read.
  for (int i = 0; i < 64; ++i) {
    if (::recv(receive.get(), &datagram, sizeof datagram, MSG_DONTWAIT) < 0) break;
  }
  return std::optional(port);
}

Status LocalDomain::set_xenstore_port(Port port) {
  return ask(SET_XENSTORE_PORT, port);
}
Status LocalDomain::shut_down() {
  return ask(SHUT_DOWN);
}
Status LocalDomain::destroy() {
  return ask(DESTROY);
}

}  // namespace bulkhead::hypervisor::local
