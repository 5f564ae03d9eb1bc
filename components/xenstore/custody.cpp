#include "components/xenstore/custody.h"

#include <sys/eventfd.h>

#include <bit>
#include <new>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/import_items.h"
#include "components/xenstore/quota_service.h"
#include "components/xenstore/server_settings.h"
#include "components/xenstore/snapshot_store.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

constexpr const char* kControl = "control";
constexpr const char* kConnections = "connections";
constexpr const char* kJournal = "journal";
constexpr const char* kDoorbell = "doorbell";

std::string snapshot_name(std::size_t slot) {
  return "snapshot-" + std::to_string(slot);
}

std::uint32_t seal_of(const Control& control) {
  return crc32c(std::as_bytes(std::span(&control.geometry, 1)),
                crc32c(std::as_bytes(std::span(&control.version, 1))));
}

Result<UniqueFd> make_control(const CustodySettings& settings) {
  const std::size_t bytes = control_bytes(settings.geometry.max_connections);
  auto segment = create_memfd("xenstore-control", bytes);
  if (!segment) return segment;
  auto mapping = Mapping::map(segment->borrow(), bytes);
  if (!mapping) return forward(std::move(mapping));
  auto* control = new (mapping->data()) Control{};
  control->version = kLayoutVersion;
  control->geometry = settings.geometry;
  control->seal = seal_of(*control);
  control->next_serial = 1;
  control->magic = kControlMagic;
  return segment;
}

Result<UniqueFd> make_doorbell() {
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell.valid()) return os_failure("cannot create a doorbell");
  return bell;
}

Status deposit_if_missing(CustodyStore& store, const std::string& name, const char* kind,
                          const std::function<Result<UniqueFd>()>& make) {
  if (store.custody(name) != nullptr) return {};
  kCustodyDeposit.pass();
  auto fd = make();
  if (!fd) return forward(std::move(fd));
  auto deposited = store.deposit(name, kind, std::move(*fd));
  // Refused because a predecessor's deposit, under way when it died, arrived before ours: that one it is
  // then.
  if (!deposited && store.custody(name) == nullptr) {
    return forward(std::move(deposited), "cannot deposit " + name);
  }
  return {};
}

Result<BorrowedFd> find_item(const CustodyStore& store, const std::string& name) {
  const CustodyEntry* item = store.custody(name);
  if (item == nullptr) return failure(ErrorKind::kNotFound, "custody lacks " + name);
  return item->fd.borrow();
}

Result<Mapping> map_item(const CustodyStore& store, const std::string& name, std::size_t at_least) {
  auto item = find_item(store, name);
  if (!item) return forward(std::move(item));
  auto mapping = Mapping::map(*item, at_least);
  if (!mapping) return forward(std::move(mapping), name);
  return mapping;
}

Result<Mapping> map_control(const CustodyStore& store) {
  auto control = map_item(store, kControl, kCommitRecords);
  if (!control) return control;
  const auto* head = control->at<Control>(0);
  if (head->magic != kControlMagic) {
    return failure(ErrorKind::kInvalid, "the control segment in custody holds something else");
  }
  if (head->version != kLayoutVersion) {
    return failure(ErrorKind::kInvalid, "custody was written by another version (layout " +
                                            std::to_string(head->version) + ", this program knows " +
                                            std::to_string(kLayoutVersion) + ")");
  }
  if (control->size() < control_bytes(head->geometry.max_connections)) {
    return failure(ErrorKind::kInvalid, "the control segment is too small for its own geometry");
  }
  if (head->seal != seal_of(*head)) {
    return failure(ErrorKind::kInvalid, "the control segment's geometry is damaged");
  }
  return control;
}

}  // namespace

Result<CustodySettings> CustodySettings::from(const Instance& instance) {
  auto connections = setting_between(instance, "max_connections", 16'384, 1, 32'768);
  if (!connections) return forward(std::move(connections));
  auto out = setting_between(instance, "output_bytes", 1 << 20, 1 << 17, 1 << 26);
  if (!out) return forward(std::move(out));
  auto journal = setting_between(instance, "journal_bytes", 64 << 20, 4 << 20, std::uint64_t{4} << 30);
  if (!journal) return forward(std::move(journal));
  auto snapshot = setting_between(instance, "snapshot_bytes", 512 << 20, 1 << 20, std::uint64_t{16} << 30);
  if (!snapshot) return forward(std::move(snapshot));
  // All that another xenstored may hand over of what a client has sent (migration_stream.h) has to fit.
  const std::uint32_t in_bytes = instance.custody(kImportItem) != nullptr ? 64 * 1024 : 16 * 1024;
  const Geometry geometry{static_cast<std::uint32_t>(*connections), in_bytes,
                          static_cast<std::uint32_t>(std::bit_ceil(*out))};
  auto limits = limits_from(instance.welcome().settings());
  if (!limits) return forward(std::move(limits));
  return CustodySettings{geometry, *journal, *snapshot, *limits};
}

bool Custody::complete(const CustodyStore& store) {
  for (std::size_t slot = 0; slot < kSnapshotSlots; ++slot) {
    if (store.custody(snapshot_name(slot)) == nullptr) return false;
  }
  return store.custody(kControl) != nullptr && store.custody(kConnections) != nullptr &&
         store.custody(kJournal) != nullptr && store.custody(kDoorbell) != nullptr;
}

Status Custody::create(CustodyStore& store, const CustodySettings& settings) {
  auto done = deposit_if_missing(store, kControl, "segment", [&] { return make_control(settings); });
  if (!done) return done;
  // The control segment's geometry rules, should it be older than the settings.
  auto control = map_control(store);
  if (!control) return forward(std::move(control));
  const Geometry geometry = control->at<Control>(0)->geometry;
  done = deposit_if_missing(store, kConnections, "segment", [&] {
    return create_memfd("xenstore-connections", connections_bytes(geometry));
  });
  if (!done) return done;
  done =
      deposit_if_missing(store, kJournal, "segment", [&] { return Journal::create(settings.journal_bytes); });
  if (!done) return done;
  for (std::size_t slot = 0; slot < kSnapshotSlots; ++slot) {
    done = deposit_if_missing(store, snapshot_name(slot), "segment",
                              [&] { return SnapshotStore::create_segment(settings.snapshot_bytes); });
    if (!done) return done;
  }
  return deposit_if_missing(store, kDoorbell, "other", make_doorbell);
}

Result<Custody> Custody::open(const CustodyStore& store) {
  auto control = map_control(store);
  if (!control) return forward(std::move(control));
  const Geometry geometry = control->at<Control>(0)->geometry;
  auto connections = map_item(store, kConnections, connections_bytes(geometry));
  if (!connections) return forward(std::move(connections));
  auto doorbell = find_item(store, kDoorbell);
  if (!doorbell) return forward(std::move(doorbell));
  auto journal_item = find_item(store, kJournal);
  if (!journal_item) return forward(std::move(journal_item));
  auto journal = Journal::open(*journal_item);
  if (!journal) return forward(std::move(journal));
  Custody custody(std::move(*control), std::move(*connections), std::move(*journal), *doorbell);
  for (std::size_t slot = 0; slot < kSnapshotSlots; ++slot) {
    auto snapshot = map_item(store, snapshot_name(slot), kSnapshotData);
    if (!snapshot) return forward(std::move(snapshot));
    custody.snapshots_[slot] = std::move(*snapshot);
  }
  return custody;
}

CommitRecord& Custody::commit_record(std::uint64_t number) const {
  return *control_.at<CommitRecord>(kCommitRecords +
                                    (number & 1) * commit_record_bytes(geometry().max_connections));
}

}  // namespace bulkhead::xenstore
