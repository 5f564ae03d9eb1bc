// The last step of recovery before giving up, and the only one that may lose something: custody holds damage,
// and what it holds cannot be read as a whole. Goes on with the newest state that can be read, and says what
// it gave up.
#pragma once

#include <cstdint>
#include <string>

#include "components/xenstore/custody.h"
#include "components/xenstore/replica.h"

namespace bulkhead::xenstore {

struct Salvaged {
  std::uint64_t kept_until = 0;  // journal position; what came later is lost
  std::uint64_t lost_records =
      0;             // of those that can still be told from damage, and one for each damaged stretch
  std::string note;  // one line: what was read, what was given up
};

// For the owner, when no other instance lives: the newest readable snapshot (published or not) and the
// journal from there to the damage; nothing behind it, since later records rest on what cannot be read. A
// record that can be read but kills who executes it (journal_quarantine.h) is left out alone.
// Without any readable snapshot: an empty store and the journal from its beginning. All connections are
// marked as closing, since nobody knows what they were told. Then a snapshot of that state is published past
// the journal's end, and the journal begins anew there. `replica` ends up at that position. An instance that
// dies in here is followed by one that does the same again.
Result<Salvaged> salvage(Custody& custody, Replica& replica);

}  // namespace bulkhead::xenstore
