// Arbitrary packets on the core's private sockets. To the core, as its instances and its gRPC edge would send
// them: decoded, bounded and handled by the real component and the real service. To an instance, as its core
// would.
//
// Input: a byte for the mode. 0: an instance attaches. Else: a core, whose bits 1 and 2 say whether its
// instances are ready. Then packets: a byte that says where to and how it is made, a byte for the
// descriptors, and its content.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <limits>
#include <map>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/crash_point.h"
#include "runtime/instance.h"
#include "runtime/instance_faults.h"
#include "runtime/seqpacket.h"
#include "tests/fuzz/contract_core.h"
#include "tests/fuzz/fuzz.h"

namespace bulkhead::fuzz {
namespace {

constexpr std::size_t kMaxPackets = 64;

// ---- messages: the fields of protocol buffers, of few names and numbers ----

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7U) out += static_cast<char>(value | 0x80U);
  out += static_cast<char>(value);
}
void append_number(std::string& out, std::uint32_t field, std::uint64_t value) {
  append_varint(out, std::uint64_t{field} << 3U);
  append_varint(out, value);
}
void append_bytes(std::string& out, std::uint32_t field, const std::string& value) {
  append_varint(out, std::uint64_t{field} << 3U | 2U);
  append_varint(out, value.size());
  out += value;
}

std::string some_text(Input& input) {
  static constexpr const char* kWords[] = {"thing",   "nope",          "",       "segment",  "socket",
                                           "other",   "item",          "lease",  "listener", "another.item-2",
                                           "active",  "standby",       "hang",   "slow",     "leak",
                                           "5ms",     "10MiB",         "info",   "warning",  "crash-at",
                                           "a-point", "quotas",        "fdleak", "corrupt",  "crash",
                                           "UPPER",   "drop-heartbeat"};
  const std::uint8_t which = input.byte();
  if (which < 200) return kWords[which % std::size(kWords)];
  if (which < 230) return input.text(input.byte());
  // Of any length, in characters of two bytes, behind none or one of one byte.
  std::string text(which % 2U, 'x');
  for (std::size_t count = (which - 229U) * (which - 229U) * 20; count > 0; --count) text += "\u00e9";
  return text;
}

std::uint64_t some_number(Input& input) {
  const std::uint8_t which = input.byte();
  if (which < 200) return which % 10;
  if (which < 250) return input.number<std::uint64_t>();
  return std::numeric_limits<std::uint64_t>::max() >> (which - 250U);
}

// Fields 1 to 5, numbers and texts, as most messages here have.
std::string some_fields(Input& input) {
  std::string out;
  for (std::size_t count = input.pick(8); count > 0; --count) {
    const std::uint8_t shape = input.byte();
    const std::uint32_t field = 1 + (shape >> 1U) % 5U;
    if ((shape & 1U) == 0) {
      append_bytes(out, field, some_text(input));
    } else {
      append_number(out, field, some_number(input));
    }
  }
  return out;
}

// Many names, as an instance may claim them.
std::string boasting_hello(Input& input) {
  std::string hello;
  const std::string name = some_text(input);
  const std::uint32_t field = 3 + static_cast<std::uint32_t>(input.pick(2));
  const std::size_t most = kMaxPacketBytes / (name.size() + 16);
  for (std::size_t count = std::min<std::size_t>(most, 4 * std::size_t{input.byte()}); count > 0; --count) {
    append_bytes(hello, field, name + std::to_string(count % 4));
  }
  return hello;
}

// FromInstance and ToInstance: one of 12 bodies; two are plain texts.
std::string contract_message(Input& input) {
  std::string out;
  const auto field = static_cast<std::uint32_t>(input.pick(14));
  if (field == 13) {
    append_bytes(out, 1, boasting_hello(input));
  } else if (field == 3 || field == 12) {
    append_bytes(out, field, input.pick(4) == 0 ? some_fields(input) : some_text(input));
  } else {
    append_bytes(out, field, some_fields(input));
  }
  return out;
}

std::string edge_request(Input& input) {
  static constexpr const char* kMethods[] = {
      "ListComponents", "WatchComponents", "WatchEvents", "ListIncidents", "WatchIncidents", "InjectFault",
      "ListFaults",     "ClearFaults",     "HandOver",    "Restart",       "Drain",          "Enable",
      "Disable",        "ListCustody",     "ListQuotas",  "SetLogLevel",   "GetVersion",     "Nothing"};
  contract::EdgeRequest request;
  const std::uint8_t shape = input.byte();
  request.set_id(shape % 8U);
  if ((shape & 0x78U) == 0x78U) {
    request.set_cancel(true);
    return request.SerializeAsString();
  }
  request.set_method(input.one_of(kMethods));
  if ((shape & 0x80U) == 0) request.mutable_caller()->mutable_unix()->set_uid(shape & 0x40U);
  request.set_body(some_fields(input));
  return request.SerializeAsString();
}

// ---- packets ----

UniqueFd some_descriptor(std::size_t which) {
  std::array<int, 2> pair{};
  switch (which % 6) {
    case 0:
      return std::move(*create_memfd("fuzz", 4096));
    case 1:
      return std::move(*create_memfd("fuzz", std::size_t{1} << 19U));
    case 2:
      return UniqueFd(::memfd_create("fuzz", MFD_CLOEXEC));  // its size is not sealed
    case 3:
      return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    case 4:
      require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) == 0,
              "a socket pair");
      ::close(pair[1]);
      return UniqueFd(pair[0]);
    default:
      return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  }
}

// Bit by bit what a well-behaved sender would never send.
void send_raw(BorrowedFd socket, const std::string& bytes, const std::vector<UniqueFd>& fds) {
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(32 * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i].get();
      std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof fd);
    }
  }
  (void)!::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);  // full: the packet is not sent
}

std::vector<UniqueFd> some_descriptors(Input& input) {
  const std::uint8_t shape = input.byte();
  std::size_t count = shape < 0xC0 ? shape % 4U : shape % 16U;
  std::vector<UniqueFd> fds;
  for (std::size_t kind = shape / 4U; count > 0; --count, kind += shape % 5U)
    fds.push_back(some_descriptor(kind));
  return fds;
}

// `how` picks: well formed, damaged in one byte, arbitrary, or far too long.
std::string content(Input& input, std::size_t how, std::string (*well_formed)(Input& input)) {
  if (how == 3) return input.text(1 + input.byte());
  if (how == 2) return std::string(kMaxPacketBytes + 1, 'x');
  std::string bytes = well_formed(input);
  if (how == 1 && !bytes.empty())
    bytes[input.number<std::uint16_t>() % bytes.size()] = static_cast<char>(input.byte());
  return bytes;
}

void read_away(BorrowedFd socket) {
  for (auto packet = receive_packet(socket); packet && *packet; packet = receive_packet(socket)) {
  }
}

// What the edge asked and has not cancelled, by the call's id.
using Asked = std::map<std::uint64_t, std::string>;

void note_request(const std::string& bytes, Asked& asked) {
  contract::EdgeRequest request;
  if (bytes.size() > kMaxPacketBytes || !request.ParseFromString(bytes) || request.cancel()) return;
  asked[request.id()] = request.method();
}

template <typename Response>
bool parses(const std::string& body) {
  return Response().ParseFromString(body);
}

// A client must be able to read what it is told, whatever instances and other clients have said.
bool client_can_read(const std::string& method, const std::string& body) {
  using Parser = bool (*)(const std::string&);
  static const std::map<std::string, Parser> kResponses{
      {"ListComponents", parses<v1::ListComponentsResponse>},
      {"WatchComponents", parses<v1::ComponentChange>},
      {"WatchEvents", parses<v1::Event>},
      {"ListIncidents", parses<v1::ListIncidentsResponse>},
      {"WatchIncidents", parses<v1::Incident>},
      {"InjectFault", parses<v1::InjectFaultResponse>},
      {"ListFaults", parses<v1::ListFaultsResponse>},
      {"ClearFaults", parses<v1::ClearFaultsResponse>},
      {"ListCustody", parses<v1::ListCustodyResponse>},
      {"ListQuotas", parses<v1::ListQuotasResponse>},
  };
  const auto found = kResponses.find(method);
  return found == kResponses.end() || found->second(body);
}

void check_replies(BorrowedFd edge, const Asked& asked) {
  for (auto packet = receive_packet(edge); packet && *packet; packet = receive_packet(edge)) {
    contract::EdgeReply reply;
    require(reply.ParseFromString((*packet)->bytes), "the edge can read the reply");
    const auto request = asked.find(reply.id());
    require(request != asked.end(), "only what was asked is answered");
    require(client_can_read(request->second, reply.body()),
            request->second + ": the client can read the response");
  }
}

// ---- both directions ----

void to_the_core(Input& input, std::uint8_t mode) {
  static CoreFixture fixture;
  MiniatureCore core(fixture, (mode & 2U) != 0, (mode & 4U) != 0);
  Asked asked;
  for (std::size_t i = 0; i < kMaxPackets && !input.done(); ++i) {
    const std::uint8_t shape = input.byte();
    const std::size_t to = shape % 3U;
    const std::size_t how = shape >> 6U;
    if ((shape & 0x3CU) == 0x3CU) {  // rarely
      if (to < MiniatureCore::kInstances) core.close_instance_end(to);
    } else if (to < MiniatureCore::kInstances) {
      const auto fds = some_descriptors(input);
      send_raw(core.instance_end(to), content(input, how, contract_message), fds);
    } else {
      const std::string bytes = content(input, how, edge_request);
      note_request(bytes, asked);
      send_raw(core.edge_end(), bytes, {});
    }
    core.turn();
    if ((shape & 0x20U) == 0) {
      for (std::size_t which = 0; which < MiniatureCore::kInstances; ++which)
        read_away(core.instance_end(which));
      check_replies(core.edge_end(), asked);
    }
  }
}

// Those that end or delay the process on purpose are left out.
bool harmless(const contract::ToInstance& order) {
  if (!order.has_fault()) return true;
  for (const char* kind : {"exit", "spin", "deadlock", "crash-at"}) {
    if (order.fault().kind() == kind) return false;
  }
  return true;
}

void use(Instance& instance) {
  InstanceFaults faults([] {});
  for (const char* setting : {"thing", "item", "other"}) (void)instance.number_setting(setting, 7);
  (void)instance.custody("item");
  instance.answer_ping();
  const Status ended = instance.pump([&](const contract::ToInstance& order) {
    if (harmless(order)) (void)faults.obey(order, instance);
  });
  require(!ended && !ended.error().message().empty(), "the end of the core is noticed");
  (void)faults.request_delay_ns();
  faults.turn(std::numeric_limits<std::int64_t>::max());
  require(!faults.heartbeat_dropped(), "faults end with their lease");
}

void to_an_instance(Input& input) {
  auto pair = seqpacket_pair();
  require(pair.has_value(), "a socket pair can be made");
  UniqueFd far = std::move(pair->first);
  for (std::size_t i = 0; i < kMaxPackets && !input.done(); ++i) {
    const std::uint8_t shape = input.byte();
    const auto fds = some_descriptors(input);
    send_raw(far.borrow(), content(input, shape >> 6U, contract_message), fds);
  }
  ::shutdown(far.get(), SHUT_WR);  // or it would wait for more
  const UniqueFd near = std::move(pair->second);
  ::setenv(kContractFdVariable, std::to_string(::fcntl(near.get(), F_DUPFD_CLOEXEC, 3)).c_str(), 1);
  auto instance = Instance::attach({});
  if (!instance) return require(!instance.error().message().empty(), "a failure says why");
  use(*instance);
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  const std::uint8_t mode = input.byte();
  if (mode % 2 == 0) {
    to_an_instance(input);
  } else {
    to_the_core(input, mode);
  }
  bulkhead::CrashPoint::disarm_all();
  return 0;
}
