// Faults of this service that an operator can rehearse besides the common ones (runtime/instance_faults.h):
//
//   corrupt PLACE      flips a bit: of the tree in this instance's memory (tree, or no argument), or in
//   custody:
//                      of what waits to be sent to a client or to be executed for it (output, input), of a
//                      connection's positions (slot), or of the next commit's record, whose owner dies
//                      (commit)
//   poison             requests naming /poison/... kill whoever serves them: /poison/crash, /poison/reply
//   (while the
//                      reply is made), /poison/hang, /poison/memory; /poison/connection kills whoever looks
//                      at the connection it stands in; /poison/follow, which must change something, kills
//                      who follows the journal, and not the owner that executed it
//   as-guest DOMID     clients that connect from now on act for that unprivileged domain, with its quotas and
//                      permissions: what could a hostile guest do?
//
// The last two live in custody until their lease ends, so that successors suffer them too.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "components/xenstore/custody.h"
#include "components/xenstore/engine.h"
#include "runtime/instance_faults.h"

namespace bulkhead::xenstore {

enum class Poison : std::uint8_t { kNone, kCrash, kReply, kHang, kMemory, kConnection, kFollow };

// What this request is while the fault `poison` is on.
Poison poison_of(const Control& control, const Request& request, std::int64_t now_ns);
// Is it on? Cheap.
inline bool poison_armed(const Control& control) {
  return control.poison_until_ns.load(std::memory_order_relaxed) != 0;
}
// Does what the poison is named for; returns only for kNone, kReply and kFollow.
void suffer(Poison poison);

// The domain of a client that connects now: 0, or the guest's of the fault `as-guest`.
std::uint32_t domain_of_new_client(const Control& control, std::int64_t now_ns);

inline constexpr std::array kOwnFaultKinds{"poison", "as-guest"};
// All of them, carried out on what `custody` gives at that time (null: not there yet), and by `corrupt_tree`.
std::vector<InstanceFaults::Own> own_faults(const std::function<Custody*()>& custody,
                                            std::function<void()> corrupt_tree);

}  // namespace bulkhead::xenstore
