// The xenstore service's crash points, in the order of a request's life. docs/crash-windows.md says what a
// successor sees at each, and which test dies there.
#pragma once

#include "runtime/crash_point.h"

namespace bulkhead::xenstore {

// Nothing can run if registering a name fails; a point is a named constant to all but the one who arms it.
// NOLINTBEGIN(bugprone-throwing-static-initialization,readability-identifier-naming)
inline CrashPoint kCustodyDeposit{"custody-deposit"};    // some segments deposited, others not
inline CrashPoint kTakeoverAdopted{"takeover-adopted"};  // lease taken, ring adopted, nothing else done
inline CrashPoint kTakeoverRedone{"takeover-redone"};    // the predecessor's commit applied again
inline CrashPoint kTakeoverForgotten{
    "takeover-forgotten"};  // what the predecessor did is forgotten, no suspect yet
inline CrashPoint kTakeoverRemembered{"takeover-remembered"};  // it is a suspect, nothing was touched
inline CrashPoint kTakeoverReplayed{"takeover-replayed"};      // journal followed to its end
inline CrashPoint kReceiveCompleted{"receive-completed"};      // completion seen, not yet counted
inline CrashPoint kReceiveCounted{"receive-counted"};          // counted, completion not yet taken
inline CrashPoint kRequestParsed{"request-parsed"};            // about to execute
inline CrashPoint kRequestExecuted{"request-executed"};        // executed in private memory, replies staged
inline CrashPoint kRequestJournalled{"request-journalled"};    // record written behind the tail
inline CrashPoint kCommitPrepared{"commit-prepared"};          // commit record filled
inline CrashPoint kCommitted{"committed"};                     // the one store done, nothing applied
inline CrashPoint kCommitHalfApplied{"commit-half-applied"};
inline CrashPoint kCommitApplied{"commit-applied"};
inline CrashPoint kSendQueued{"send-queued"};        // entry in the ring, not submitted
inline CrashPoint kSubmitted{"submitted"};           // the kernel has acted
inline CrashPoint kSendCompleted{"send-completed"};  // completion seen, not yet counted
inline CrashPoint kSendCounted{"send-counted"};      // counted, completion not yet taken
inline CrashPoint kSendSealed{"send-sealed"};        // checksum moved on, what was sent not yet counted
inline CrashPoint kInputOpened{"input-opened"};      // the seal is broken, nothing is executed
inline CrashPoint kInputSealed{"input-sealed"};      // what waits is sealed
inline CrashPoint kAcceptCompleted{"accept-completed"};
inline CrashPoint kAcceptCommitted{"accept-committed"};
inline CrashPoint kSlotPrepared{"slot-prepared"};  // a slot's first use: it is not among those used yet
inline CrashPoint kBoundaryBehind{
    "boundary-behind"};                             // of a guest: sent is counted, its boundary is not moved
inline CrashPoint kFaultHalfSet{"fault-half-set"};  // as-guest: whom for is known, until when is not
inline CrashPoint kCloseCommitted{"close-committed"};
inline CrashPoint kCloseCompleted{"close-completed"};
inline CrashPoint kSnapshotBegun{"snapshot-begun"};
inline CrashPoint kSnapshotWritten{"snapshot-written"};  // complete, not published
inline CrashPoint kSnapshotPublished{"snapshot-published"};
inline CrashPoint kJournalReleased{"journal-released"};
inline CrashPoint kPoisonStruck{"poison-struck"};  // counted against its sender, not yet refused
inline CrashPoint kCheckpointWritten{"checkpoint-written"};
inline CrashPoint kFollowForgotten{
    "follow-forgotten"};  // what the last follower died of is forgotten, not yet a suspect
inline CrashPoint kFollowRemembered{"follow-remembered"};  // it is a suspect, nothing was executed
inline CrashPoint kFollowed{"followed"};  // a record was executed, its suspect not yet acquitted
inline CrashPoint kSalvaged{"salvaged"};  // connections are marked, the journal still holds the damage
inline CrashPoint kSalvagePublished{"salvage-published"};
// Of domains' rings.
inline CrashPoint kRingBound{"ring-bound"};  // the event channel is bound, the domain not yet introduced
inline CrashPoint kRingPrepared{"ring-prepared"};  // the slot says where the ring is, and is still free
inline CrashPoint kRingOpened{"ring-opened"};      // committed, the domain does not know that it is connected
inline CrashPoint kRingCopied{"ring-copied"};      // requests stand behind the input, not yet counted
inline CrashPoint kRingCounted{"ring-counted"};    // counted, the domain does not know that they were taken
inline CrashPoint kRingWritten{"ring-written"};    // replies stand in the ring, not yet counted
inline CrashPoint kRingSent{"ring-sent"};          // counted, the domain does not see them
inline CrashPoint kRingUntold{"ring-untold"};      // the domain could see it all, and was not woken
inline CrashPoint kRingSilenced{"ring-silenced"};  // marked as cut off, its watches are still there
inline CrashPoint kRingUnbound{"ring-unbound"};    // committed as closing, its event channel is unbound
inline CrashPoint kDomainSettled{"domain-settled"};  // one domain's end is committed, its ring is still open
// Of what another xenstored has handed over, in its owner's first take-over: import_test.cpp.
inline CrashPoint kImportBegun{"import-begun"};          // nothing was done yet
inline CrashPoint kImportHalf{"import-half"};            // some connections are attached, others not
inline CrashPoint kImportAttached{"import-attached"};    // all are, nothing says so
inline CrashPoint kImportPublished{"import-published"};  // the snapshot is published, the journal begins at 0
inline CrashPoint kImportCommitted{"import-committed"};  // the journal begins behind it, its end is not moved
inline CrashPoint kImportMoved{"import-moved"};          // that too; what was handed over is still there
inline CrashPoint kImportHalfWithdrawn{"import-half-withdrawn"};  // a part of it
// These are passed only where custody holds damage: damage_test.cpp.
inline CrashPoint kDamageMarked{"damage-marked"};  // connections are marked, the commit is not given up yet
inline CrashPoint kDamageWrittenOff{"damage-written-off"};  // one is marked and emptied, still open
// NOLINTEND(bugprone-throwing-static-initialization,readability-identifier-naming)

}  // namespace bulkhead::xenstore
