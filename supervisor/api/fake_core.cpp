#include "supervisor/api/fake_core.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstdlib>

#include "runtime/seqpacket.h"

namespace bulkhead::edge {
namespace {

constexpr std::chrono::seconds kPatience(10);

}  // namespace

FakeCore::FakeCore() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { run(); }) {}

FakeCore::~FakeCore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  thread_.join();
}

UniqueFd FakeCore::connect() {
  auto ends = seqpacket_pair();
  if (!ends) std::abort();
  const std::lock_guard lock(mutex_);
  socket_ = std::move(ends->first);
  watchers_.clear();
  ::eventfd_write(wake_.get(), 1);
  return std::move(ends->second);
}

void FakeCore::hang_up() {
  const std::lock_guard lock(mutex_);
  ::shutdown(socket_.get(),
             SHUT_RDWR);  // the thread may be polling it, which would keep it open a little longer
  socket_.reset();
  ::eventfd_write(wake_.get(), 1);
}

void FakeCore::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
}

void FakeCore::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  ::eventfd_write(wake_.get(), 1);
}

void FakeCore::restart() {
  const std::lock_guard lock(mutex_);
  ++generation_;
  watchers_.clear();
}

void FakeCore::on(const std::string& method, Responder responder) {
  const std::lock_guard lock(mutex_);
  responders_[method] = std::move(responder);
}

void FakeCore::set_component(const v1::Component& component) {
  std::set<std::uint64_t> watchers;
  {
    const std::lock_guard lock(mutex_);
    components_[component.name()] = component;
    watchers = watchers_;
  }
  v1::ComponentChange change;
  *change.mutable_component() = component;
  for (const std::uint64_t id : watchers) element(id, change);
}

void FakeCore::answer(std::uint64_t id, const google::protobuf::MessageLite& body) {
  contract::v1::EdgeReply reply;
  reply.set_id(id);
  reply.set_body(body.SerializeAsString());
  send(reply);
}

void FakeCore::refuse(std::uint64_t id, Code code, const std::string& message) {
  contract::v1::EdgeReply reply;
  reply.set_id(id);
  reply.set_code(static_cast<std::uint32_t>(code));
  reply.set_message(message);
  send(reply);
}

void FakeCore::element(std::uint64_t id, const google::protobuf::MessageLite& body) {
  contract::v1::EdgeReply reply;
  reply.set_id(id);
  reply.set_more(true);
  reply.set_body(body.SerializeAsString());
  send(reply);
}

std::optional<contract::v1::EdgeRequest> FakeCore::wait_for(const std::string& method, std::size_t nth) {
  std::unique_lock lock(mutex_);
  std::optional<contract::v1::EdgeRequest> found;
  changed_.wait_for(lock, kPatience, [&] {
    std::size_t seen = 0;
    for (const auto& request : requests_) {
      if (request.method() == method && seen++ == nth) found = request;
    }
    return found.has_value();
  });
  return found;
}

bool FakeCore::wait_for_cancel(std::uint64_t id) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return cancelled_.contains(id); });
}

std::size_t FakeCore::count(const std::string& method) {
  const std::lock_guard lock(mutex_);
  std::size_t seen = 0;
  for (const auto& request : requests_) seen += request.method() == method ? 1U : 0U;
  return seen;
}

void FakeCore::run() {
  for (;;) {
    std::array<pollfd, 2> watched{};
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      watched = {pollfd{wake_.get(), POLLIN, 0}, pollfd{paused_ ? -1 : socket_.get(), POLLIN, 0}};
    }
    ::poll(watched.data(), watched.size(), -1);
    eventfd_t ignored = 0;
    if (watched[0].revents != 0) ::eventfd_read(wake_.get(), &ignored);
    if (watched[1].revents != 0) receive();
  }
}

void FakeCore::receive() {
  contract::v1::EdgeRequest request;
  {
    const std::lock_guard lock(mutex_);
    if (paused_ || !socket_.valid()) return;
    const Result<std::optional<Packet>> packet = receive_packet(socket_.borrow());
    if (!packet) {
      socket_.reset();  // the edge died
      return;
    }
    if (!packet->has_value() || !request.ParseFromString((*packet)->bytes)) return;
    if (request.cancel()) {
      cancelled_.insert(request.id());
      watchers_.erase(request.id());
    } else {
      requests_.push_back(request);
    }
  }
  if (!request.cancel()) handle(request);
  changed_.notify_all();
}

void FakeCore::handle(const contract::v1::EdgeRequest& request) {
  Responder responder;
  {
    const std::lock_guard lock(mutex_);
    const auto found = responders_.find(request.method());
    if (found != responders_.end()) responder = found->second;
  }
  if (responder) {
    responder(request);
  } else if (!answer_built_in(request)) {
    contract::v1::EdgeReply unimplemented;
    unimplemented.set_id(request.id());
    unimplemented.set_code(12);
    unimplemented.set_message("the test does not answer " + request.method());
    send(unimplemented);
  }
}

bool FakeCore::answer_built_in(const contract::v1::EdgeRequest& request) {
  std::map<std::string, v1::Component> components;
  std::int64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    components = components_;
    generation = generation_;
    if (request.method() == "WatchComponents") watchers_.insert(request.id());
  }
  if (request.method() == "GetVersion") {
    v1::GetVersionResponse version;
    version.set_version("9.9.9");
    version.set_core_pid(1);
    version.set_core_started_unix_ms(1'700'000'000'000 + generation);
    version.set_core_generation(static_cast<std::uint64_t>(generation));
    version.set_hypervisor("none");
    answer(request.id(), version);
    return true;
  }
  if (request.method() == "ListComponents") {
    v1::ListComponentsRequest query;
    query.ParseFromString(request.body());
    v1::ListComponentsResponse list;
    for (const auto& [name, component] : components) {
      if (query.name().empty() || query.name() == name) *list.add_components() = component;
    }
    if (list.components().empty() && !query.name().empty()) {
      contract::v1::EdgeReply reply;
      reply.set_id(request.id());
      reply.set_code(5);
      reply.set_message("no component is named " + query.name());
      send(reply);
      return true;
    }
    answer(request.id(), list);
    return true;
  }
  if (request.method() != "WatchComponents") return false;
  for (const auto& [name, component] : components) {
    v1::ComponentChange change;
    *change.mutable_component() = component;
    element(request.id(), change);
  }
  return true;
}

void FakeCore::send(const contract::v1::EdgeReply& reply) {
  for (;;) {
    pollfd room{-1, POLLOUT, 0};
    {
      const std::lock_guard lock(mutex_);
      if (!socket_.valid()) return;
      const Status sent = send_packet(socket_.borrow(), reply);
      if (sent || sent.error().kind() != ErrorKind::kExhausted) return;
      room.fd = socket_.get();
    }
    ::poll(&room, 1, 1000);
  }
}

}  // namespace bulkhead::edge
