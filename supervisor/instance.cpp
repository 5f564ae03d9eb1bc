#include "supervisor/instance.h"

namespace bulkhead::supervisor {

Instance* instance_in(const Instances& instances, Role role) {
  for (const auto& [id, instance] : instances) {
    if (instance->role == role) return instance.get();
  }
  return nullptr;
}

manifest::v1::Instance record_of(const Instance& instance) {
  manifest::v1::Instance record;
  record.set_id(instance.id);
  record.set_pid(instance.process.valid() ? instance.process.pid() : 0);
  record.set_role(static_cast<manifest::v1::Role>(static_cast<int>(instance.role) + 1));
  record.set_ready(instance.ready);
  // What still waits in this process dies with it, so it counts as not sent.
  record.set_custody_sent(instance.custody_sent && (!instance.link || instance.link->flushed()));
  record.set_ending(instance.ending);
  record.set_started_ns(instance.started_ns);
  *record.mutable_hello() = instance.hello;
  record.set_program(instance.program);
  record.set_baseline_bytes(instance.baseline_bytes);
  return record;
}

void restore(Instance& instance, const manifest::v1::Instance& record) {
  instance.id = record.id();
  if (record.role() != manifest::v1::ROLE_UNSPECIFIED) {
    instance.role = static_cast<Role>(static_cast<int>(record.role()) - 1);
  }
  instance.ready = record.ready();
  instance.custody_sent = record.custody_sent();
  instance.ending = record.ending();
  instance.started_ns = record.started_ns();
  instance.hello = record.hello();
  instance.program = record.program();
  instance.baseline_bytes = record.baseline_bytes();
}

}  // namespace bulkhead::supervisor
