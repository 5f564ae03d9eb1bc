#include "tests/support/guest.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "runtime/unix_address.h"

namespace bulkhead::testing {
namespace {

constexpr std::size_t kMost = std::size_t{64} * 1024;  // that waits for the client

void ring_bell(const UniqueFd& bell) {
  const std::uint64_t one = 1;
  (void)!::write(bell.get(), &one, sizeof one);
}

Result<UniqueFd> listen_on(const std::string& path) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto address = unix_address(path);
  if (!address) return failure(ErrorKind::kInvalid, "path too long: " + path);
  if (::bind(listener.get(), as_sockaddr(*address), sizeof *address) != 0 ||
      ::listen(listener.get(), 64) != 0) {
    return os_failure("cannot listen at " + path);
  }
  return listener;
}

UniqueFd accept_client(const UniqueFd& listener) {
  return UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

std::string with_nul(const std::string& text) {
  return text + std::string(1, '\0');
}

}  // namespace

Result<std::unique_ptr<Guest>> Guest::create(const std::string& machine,
                                             std::optional<hypervisor::Domid> domid) {
  auto domain = hypervisor::local::LocalDomain::create(machine, {.domid = domid});
  if (!domain) return forward(std::move(domain));
  auto port = (*domain)->allocate_port();
  if (!port) return forward(std::move(port));
  if (domid == 0) {
    if (auto set = (*domain)->set_xenstore_port(*port); !set) return forward(std::move(set));
  }
  std::unique_ptr<Guest> guest(new Guest(std::move(*domain), *port));
  // As the toolstack leaves it.
  word(guest->ring().connection).store(XENSTORE_RECONNECT);
  return guest;
}

Guest::~Guest() {
  if (listener_.valid()) ::shutdown(listener_.get(), SHUT_RDWR);  // nobody may have come
  if (socket_.valid()) ::shutdown(socket_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

std::string Guest::introduction() const {
  return with_nul(std::to_string(domid())) + with_nul("1") + with_nul(std::to_string(port_));
}

Result<UniqueFd> Guest::connect() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return os_failure("socketpair");
  }
  serve(UniqueFd(ends[0]));
  return UniqueFd(ends[1]);
}

void Guest::serve(UniqueFd socket, std::function<void()> at_end) {
  socket_ = std::move(socket);
  at_end_ = std::move(at_end);
  thread_ = std::thread([this] { carry(); });
}

Result<std::string> Guest::listen_at(const std::string& path) {
  auto listener = listen_on(path);
  if (!listener) return forward(std::move(listener));
  listener_ = std::move(*listener);
  thread_ = std::thread([this] {
    pollfd waiting{listener_.get(), POLLIN, 0};
    (void)::poll(&waiting, 1, -1);
    socket_ = accept_client(listener_);
    carry();
  });
  return path;
}

std::vector<std::string> Guest::complaints() const {
  const std::scoped_lock lock(mutex_);
  return complaints_;
}

void Guest::complain(std::string what) {
  const std::scoped_lock lock(mutex_);
  if (complaints_.size() < 10)
    complaints_.push_back("domain " + std::to_string(domid()) + ": " + std::move(what));
}

void Guest::carry() {
  while (!hung_up_) {
    while (true) {
      const auto event = domain_->take_event();
      if (!event || !*event) break;
    }
    if (!carry_some()) wait();
  }
  ended_ = true;
  if (at_end_) at_end_();
}

// False if there was nothing to do.
bool Guest::carry_some() {
  bool progress = false;
  if (to_ring_.empty()) {
    std::array<char, 4096> buffer{};
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    hung_up_ = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    if (n > 0) to_ring_.assign(buffer.data(), static_cast<std::size_t>(n));
    progress = n > 0;
  }
  if (word(ring().connection).load() == XENSTORE_CONNECTED) {
    if (write_requests() + read_responses() > 0) {
      notify();
      progress = true;
    }
  }
  if (!to_client_.empty()) {
    const ssize_t n =
        ::send(socket_.get(), to_client_.data(), to_client_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) to_client_.erase(0, static_cast<std::size_t>(n));
    progress = progress || n > 0;
  }
  return progress;
}

void Guest::wait() {
  short interest = to_ring_.empty() ? POLLIN : 0;
  if (!to_client_.empty()) interest |= POLLOUT;
  std::array<pollfd, 2> fds{pollfd{domain_->events().get(), POLLIN, 0}, pollfd{socket_.get(), interest, 0}};
  (void)::poll(fds.data(), fds.size(), -1);
  // Also while the server takes nothing of what waits here.
  hung_up_ = hung_up_ || (fds[1].revents & POLLHUP) != 0;
}

std::size_t Guest::write_requests() {
  const std::uint32_t consumed = word(ring().req_cons).load();
  const std::uint32_t produced = word(ring().req_prod).load();
  if (produced - consumed > XENSTORE_RING_SIZE) complain("req_cons is impossible");
  if (consumed - std::exchange(consumed_, consumed) > XENSTORE_RING_SIZE) complain("req_cons went back");
  const std::size_t count = put(to_ring_);
  to_ring_.erase(0, count);
  return count;
}

std::size_t Guest::put(std::string_view bytes) {
  const std::uint32_t produced = word(ring().req_prod).load();
  const std::uint32_t waits = produced - word(ring().req_cons).load();
  const std::size_t room = XENSTORE_RING_SIZE - std::min<std::uint32_t>(waits, XENSTORE_RING_SIZE);
  const std::size_t count = std::min(room, bytes.size());
  for (std::size_t i = 0; i < count; ++i) {
    ring().req[MASK_XENSTORE_IDX(produced + static_cast<std::uint32_t>(i))] = bytes[i];
  }
  word(ring().req_prod).store(produced + static_cast<std::uint32_t>(count));
  return count;
}

std::size_t Guest::read_responses() {
  const std::uint32_t produced = word(ring().rsp_prod).load();
  const std::uint32_t consumed = word(ring().rsp_cons).load();
  if (produced - consumed > XENSTORE_RING_SIZE) complain("rsp_prod is impossible");
  if (produced - std::exchange(produced_, produced) > XENSTORE_RING_SIZE) complain("rsp_prod went back");
  const std::size_t count =
      std::min<std::size_t>(produced - consumed, kMost - std::min(kMost, to_client_.size()));
  for (std::size_t i = 0; i < count; ++i) {
    to_client_ += ring().rsp[MASK_XENSTORE_IDX(consumed + static_cast<std::uint32_t>(i))];
  }
  word(ring().rsp_cons).store(consumed + static_cast<std::uint32_t>(count));
  return count;
}

// ---- proxy ----

Result<std::unique_ptr<GuestProxy>> GuestProxy::listen(const std::string& path, const std::string& machine,
                                                       const std::string& xenstore) {
  std::unique_ptr<GuestProxy> proxy(new GuestProxy(machine));
  auto socket = xs::XsClient::connect(xenstore);
  if (!socket) return forward(std::move(socket));
  proxy->toolstack_ = std::make_unique<xs::XsClient>(std::move(*socket), "toolstack", proxy->log_);
  proxy->bell_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  auto listener = listen_on(path);
  if (!listener) return forward(std::move(listener));
  proxy->listener_ = std::move(*listener);
  proxy->thread_ = std::thread([p = proxy.get()] { p->serve(); });
  return proxy;
}

GuestProxy::~GuestProxy() {
  (void)finish();
}

std::vector<std::string> GuestProxy::finish() {
  stopping_ = true;
  if (bell_.valid()) ring_bell(bell_);
  if (thread_.joinable()) thread_.join();
  auto all = complaints_;
  for (const auto& text : log_.described()) all.push_back(text);
  return all;
}

void GuestProxy::serve() {
  while (!stopping_) {
    std::array<pollfd, 2> fds{pollfd{listener_.get(), POLLIN, 0}, pollfd{bell_.get(), POLLIN, 0}};
    (void)::poll(fds.data(), fds.size(), -1);
    std::uint64_t count = 0;
    (void)!::read(bell_.get(), &count, sizeof count);
    bury(false);
    if ((fds[0].revents & POLLIN) != 0) accept();
  }
  bury(true);
}

void GuestProxy::accept() {
  UniqueFd client = accept_client(listener_);
  if (!client.valid()) return;
  auto guest = make_guest();
  if (!guest) {
    complaints_.push_back("no guest: " + guest.error().message());
    return;
  }
  (*guest)->serve(std::move(client), [this] { ring_bell(bell_); });
  guests_.push_back(std::move(*guest));
  ++made_;
}

Result<std::unique_ptr<Guest>> GuestProxy::make_guest() {
  auto guest = Guest::create(machine_);
  if (!guest) return guest;
  auto introduced = toolstack_->call(XS_INTRODUCE, 0, (*guest)->introduction());
  if (!introduced) return forward(std::move(introduced), "INTRODUCE");
  return guest;
}

void GuestProxy::bury(bool all) {
  std::erase_if(guests_, [&](const auto& guest) {
    if (!all && !guest->ended()) return false;
    for (auto& complaint : guest->complaints()) complaints_.push_back(std::move(complaint));
    return true;
  });
}

}  // namespace bulkhead::testing
