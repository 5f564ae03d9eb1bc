// What the broker answers. broker.h
#include "hypervisor/local/broker.h"

namespace bulkhead::hypervisor::local {
namespace {

UniqueFd only(std::vector<UniqueFd> fds) {
  return fds.size() == 1 ? std::move(fds.front()) : UniqueFd();
}

}  // namespace

Result<Broker::Answer> Broker::answer(Session& session, const Request& request, std::vector<UniqueFd> fds) {
  Answer answer;
  switch (request.operation()) {
    case HELLO:
      answer.fds = {domains_.living_table()};
      return answer;
    case CREATE_DOMAIN:
      return create_domain(session, request, only(std::move(fds)));
    case ALLOCATE_PORT:
    case SET_XENSTORE_PORT:
    case SHUT_DOWN:
    case DESTROY:
      if (!session.domid || domains_.find(*session.domid)->domain.dying) {
        return failure(ErrorKind::kRefused, "no living domain");
      }
      return answer_frontend(session, request);
    case USE_EVENTS:
      return use_events(session, only(std::move(fds)));
    case BIND:
    case FIND_BINDING:
    case REMOTE_OF:
    case SIGNAL_OF:
    case UNBIND:
    case DOMAIN_EVENTS:
      if (!session.events) return failure(ErrorKind::kRefused, "no events descriptor is in use");
      return answer_backend(session, request);
    case XENSTORE_PORT:
      if (xenstore_port_ == 0) return failure(ErrorKind::kNotFound, "no kernel has registered as domain 0");
      answer.reply.set_port(xenstore_port_);
      return answer;
    case DOMAINS:
      return domain_list();
    case MEMORY:
      return memory(request.domid());
    default:
      return failure(ErrorKind::kInvalid, "no such operation");
  }
}

Result<Broker::Answer> Broker::create_domain(Session& session, const Request& request, UniqueFd memory) {
  if (session.domid) return failure(ErrorKind::kRefused, "a connection is one domain");
  if (!memory.valid()) return failure(ErrorKind::kInvalid, "no memory");
  auto domid =
      domains_.add(request.any_domid() ? std::nullopt : std::optional(request.domid()), std::move(memory));
  if (!domid) return forward(std::move(domid));
  session.domid = *domid;
  Answer answer;
  answer.reply.set_domid(*domid);
  return answer;
}

Result<Broker::Answer> Broker::answer_frontend(Session& session, const Request& request) {
  const Domid domid = *session.domid;
  Answer answer;
  if (request.operation() == ALLOCATE_PORT) {
    auto allocated = channels_.allocate(domid);
    if (!allocated) return forward(std::move(allocated));
    answer.reply.set_port(allocated->port);
    answer.fds = {allocated->signal, allocated->receive.borrow()};
    answer.owned.push_back(std::move(allocated->receive));
    return answer;
  }
  if (request.operation() == SET_XENSTORE_PORT) {
    if (domid != 0 || !channels_.has(domid, request.port())) {
      return failure(ErrorKind::kRefused, "not a port of domain 0");
    }
    xenstore_port_ = request.port();
    return answer;
  }
  if (domid == 0) return failure(ErrorKind::kRefused, "domain 0 ends with its connection only");
  if (request.operation() == SHUT_DOWN) {
    domains_.shut_down(domid);
  } else {
    end_domain(domid);
  }
  channels_.signal_domain_events();
  return answer;
}

Result<Broker::Answer> Broker::use_events(Session& session, UniqueFd epoll) {
  if (session.events) return failure(ErrorKind::kRefused, "an events descriptor is in use already");
  if (!epoll.valid()) return failure(ErrorKind::kInvalid, "no events descriptor");
  auto events = channels_.use(std::move(epoll));
  if (!events) return forward(std::move(events));
  session.events = *events;
  return Answer{};
}

Result<Broker::Answer> Broker::answer_backend(Session& session, const Request& request) {
  const auto events = *session.events;
  Answer answer;
  if (request.operation() == BIND) {
    auto bound = channels_.bind(events, request.domid(), request.port());
    if (!bound) return forward(std::move(bound));
    answer.reply.set_port(bound->port);
    answer.fds = {bound->signal};
  } else if (request.operation() == FIND_BINDING) {
    answer.reply.set_port(channels_.find(events, request.domid(), request.port()).value_or(0));
  } else if (request.operation() == REMOTE_OF) {
    answer.reply.set_port(channels_.remote_of(events, request.domid(), request.port()).value_or(0));
  } else if (request.operation() == SIGNAL_OF) {
    auto signal = channels_.signal_of(events, request.port());
    if (!signal) return forward(std::move(signal));
    answer.fds = {*signal};
  } else if (request.operation() == DOMAIN_EVENTS) {
    auto port = channels_.domain_events(events);
    if (!port) return forward(std::move(port));
    answer.reply.set_port(*port);
  } else if (auto unbound = channels_.unbind(events, request.port()); !unbound) {
    return forward(std::move(unbound));
  }
  return answer;
}

Result<Broker::Answer> Broker::memory(Domid domid) const {
  const Domains::Entry* entry = domains_.find(domid);
  if (entry == nullptr || entry->domain.dying) {
    return failure(ErrorKind::kNotFound, "there is no domain " + std::to_string(domid));
  }
  Answer answer;
  answer.fds = {entry->memory.borrow()};
  answer.reply.mutable_memory()->set_slot(entry->slot);
  answer.reply.mutable_memory()->set_generation(entry->generation);
  answer.reply.mutable_memory()->set_pages(entry->pages);
  return answer;
}

Broker::Answer Broker::domain_list() const {
  Answer answer;
  for (const Domain& domain : domains_.list()) {
    auto* entry = answer.reply.add_domains();
    entry->set_domid(domain.domid);
    entry->set_shut_down(domain.shut_down);
    entry->set_dying(domain.dying);
  }
  return answer;
}

}  // namespace bulkhead::hypervisor::local
