#include "bench/population.h"

#include <array>
#include <string_view>

namespace bulkhead::bench {
namespace {

constexpr std::size_t kUnsent = std::size_t{64} * 1024;

struct Leaf {
  std::string_view path;  // @: the domain's number
  std::string_view value;
};

// As `xenstore-ls` shows it on a host with xl, one paravirtual disk and two network devices a guest.
constexpr std::array<Leaf, 40> kLeaves{{
    {"/local/domain/@/vm", "/vm/3f1c2a68-5c3e-4c6b-9d0e-7a5b00000000"},
    {"/local/domain/@/name", "guest-@"},
    {"/local/domain/@/domid", "@"},
    {"/local/domain/@/cpu/0/availability", "online"},
    {"/local/domain/@/cpu/1/availability", "online"},
    {"/local/domain/@/memory/static-max", "2097152"},
    {"/local/domain/@/memory/target", "2097152"},
    {"/local/domain/@/control/feature-poweroff", "1"},
    {"/local/domain/@/control/feature-suspend", "1"},
    {"/local/domain/@/console/port", "2"},
    {"/local/domain/@/console/ring-ref", "1044479"},
    {"/local/domain/@/console/type", "xenconsoled"},
    {"/local/domain/@/store/port", "1"},
    {"/local/domain/@/store/ring-ref", "1044476"},
    {"/local/domain/@/device/vbd/51712/backend", "/local/domain/0/backend/vbd/@/51712"},
    {"/local/domain/@/device/vbd/51712/backend-id", "0"},
    {"/local/domain/@/device/vbd/51712/state", "4"},
    {"/local/domain/@/device/vbd/51712/virtual-device", "51712"},
    {"/local/domain/@/device/vbd/51712/ring-ref", "8"},
    {"/local/domain/@/device/vbd/51712/event-channel", "15"},
    {"/local/domain/@/device/vif/0/backend", "/local/domain/0/backend/vif/@/0"},
    {"/local/domain/@/device/vif/0/backend-id", "0"},
    {"/local/domain/@/device/vif/0/state", "4"},
    {"/local/domain/@/device/vif/0/handle", "0"},
    {"/local/domain/@/device/vif/0/mac", "00:16:3e:5e:6c:00"},
    {"/local/domain/@/device/vif/0/tx-ring-ref", "768"},
    {"/local/domain/@/device/vif/0/rx-ring-ref", "769"},
    {"/local/domain/@/device/vif/0/request-rx-copy", "1"},
    {"/local/domain/0/backend/vbd/@/51712/frontend", "/local/domain/@/device/vbd/51712"},
    {"/local/domain/0/backend/vbd/@/51712/params", "/dev/vg0/guest-@"},
    {"/local/domain/0/backend/vbd/@/51712/mode", "w"},
    {"/local/domain/0/backend/vbd/@/51712/state", "4"},
    {"/local/domain/0/backend/vbd/@/51712/sectors", "41943040"},
    {"/local/domain/0/backend/vif/@/0/frontend", "/local/domain/@/device/vif/0"},
    {"/local/domain/0/backend/vif/@/0/script", "/etc/xen/scripts/vif-bridge"},
    {"/local/domain/0/backend/vif/@/0/mac", "00:16:3e:5e:6c:00"},
    {"/local/domain/0/backend/vif/@/0/bridge", "xenbr0"},
    {"/local/domain/0/backend/vif/@/0/state", "4"},
    {"/vm/@/name", "guest-@"},
    {"/vm/@/uuid", "3f1c2a68-5c3e-4c6b-9d0e-7a5b00000000"},
}};

// The directories of a domain whose permissions everything below inherits.
constexpr std::array<std::string_view, 3> kOwned{"/local/domain/@", "/local/domain/0/backend/vbd/@",
                                                 "/local/domain/0/backend/vif/@"};

std::string with_number(std::string_view text, std::uint64_t number) {
  std::string filled;
  for (const char c : text) {
    if (c == '@') {
      filled += std::to_string(number);
    } else {
      filled += c;
    }
  }
  return filled;
}

// Sends requests pipelined; every reply must be good.
class Pipeline {
 public:
  explicit Pipeline(Wire& wire) : wire_(wire) {}

  Status send(std::uint32_t type, const std::string& payload) {
    wire_.queue(type, 0, payload);
    ++unanswered_;
    while (wire_.queued() > kUnsent) {
      if (Status moved = move(); !moved) return moved;
    }
    return {};
  }
  Status finish() {
    while (unanswered_ > 0) {
      if (Status moved = move(); !moved) return moved;
    }
    return {};
  }

 private:
  Status move() {
    if (!wire_.flush()) return failure(ErrorKind::kDisconnected, "the connection ended");
    wire_.wait(1000);
    if (!wire_.fill()) return failure(ErrorKind::kDisconnected, "the connection ended");
    Wire::Message message;
    while (wire_.next(message)) {
      if (message.type == XS_ERROR)
        return failure(ErrorKind::kRefused, "cannot fill the store: " + std::string(message.payload.data()));
      --unanswered_;
    }
    return {};
  }

  Wire& wire_;
  std::uint64_t unanswered_ = 0;
};

}  // namespace

Status populate_domains(Wire& wire, std::uint64_t nodes) {
  Pipeline pipeline(wire);
  for (std::uint64_t i = 0; i < nodes; ++i) {
    const std::uint64_t domid = 1 + i / kLeaves.size();
    for (std::size_t k = 0; i % kLeaves.size() == 0 && k < kOwned.size(); ++k) {
      const std::string path = with_number(kOwned[k], domid);
      // Owned by domain 0: the stock daemon knows only domains that the hypervisor has.
      const std::string permissions = path_payload("n0") + path_payload("r" + std::to_string(domid));
      if (Status sent = pipeline.send(XS_MKDIR, path_payload(path)); !sent) return sent;
      if (Status sent = pipeline.send(XS_SET_PERMS, path_payload(path) + permissions); !sent) return sent;
    }
    const Leaf& leaf = kLeaves[i % kLeaves.size()];
    Status sent =
        pipeline.send(XS_WRITE, write_payload(with_number(leaf.path, domid), with_number(leaf.value, domid)));
    if (!sent) return sent;
  }
  return pipeline.finish();
}

std::string leaf_path(const std::string& base, std::uint64_t i) {
  return base + "/" + std::to_string(i % 100) + "/" + std::to_string(i);
}

Status populate_leaves(Wire& wire, const std::string& base, std::uint64_t nodes, const std::string& value) {
  Pipeline pipeline(wire);
  for (std::uint64_t i = 0; i < nodes; ++i) {
    if (Status sent = pipeline.send(XS_WRITE, write_payload(leaf_path(base, i), value)); !sent) return sent;
  }
  return pipeline.finish();
}

Status populate_directory(Wire& wire, const std::string& directory, std::uint64_t children) {
  Pipeline pipeline(wire);
  for (std::uint64_t i = 0; i < children; ++i) {
    Status sent = pipeline.send(XS_WRITE, write_payload(directory + "/child-" + std::to_string(i), ""));
    if (!sent) return sent;
  }
  return pipeline.finish();
}

}  // namespace bulkhead::bench
