#include "supervisor/incidents.h"

#include <cstdio>
#include <utility>

#include "supervisor/incident_database.h"

namespace bulkhead::supervisor {

IncidentStore::IncidentStore(const std::string& path, Limits limits, std::int64_t now_unix_us)
    : path_(path), limits_(limits) {
  open(now_unix_us);
}
IncidentStore::~IncidentStore() = default;
IncidentStore::IncidentStore(IncidentStore&&) noexcept = default;
IncidentStore& IncidentStore::operator=(IncidentStore&&) noexcept = default;

void IncidentStore::open(std::int64_t now_unix_us) {
  auto opened = open_file();
  if (!opened && opened.error().kind() == ErrorKind::kInvalid) {
    set_aside(opened.error().message(), now_unix_us);
    opened = open_file();
  }
  if (opened) return;
  trouble_.push_back("incidents are kept in memory only: " + path_ + ": " + opened.error().message());
  open_memory();
}

Status IncidentStore::open_file() {
  auto opened = Database::open(path_);
  if (!opened) return forward(std::move(opened));
  db_ = std::move(*opened);
  persistent_ = true;
  return {};
}

// Without memory for even that, incidents are logged but not kept.
void IncidentStore::open_memory() {
  persistent_ = false;
  auto opened = Database::open(":memory:");
  db_ = opened ? std::move(*opened) : nullptr;
}

// With its companions, which belong to the damaged file and would be applied to the new one.
void IncidentStore::set_aside(const std::string& why, std::int64_t now_unix_us) {
  const std::string aside = path_ + ".damaged-" + std::to_string(now_unix_us / 1'000'000);
  for (const char* suffix : {"", "-wal", "-shm"}) [[maybe_unused]]
    const int renamed = std::rename((path_ + suffix).c_str(), (aside + suffix).c_str());
  trouble_.push_back("the incident database " + path_ + " " + why + "; it is now " + aside +
                     ", a new one is begun");
}

void IncidentStore::replace(const Error& error, std::int64_t now_unix_us) {
  v1::ListIncidentsResponse newest;
  std::int64_t last_id = 0;
  if (db_) {
    last_id = db_->last_id();
    constexpr std::uint32_t kKept = 500;
    if (auto listed = db_->list({"", 0, kKept})) newest = std::move(*listed);
  }
  const bool damaged = persistent_ && error.kind() == ErrorKind::kInvalid;
  db_.reset();
  if (damaged) {
    set_aside(error.message(), now_unix_us);
    open(now_unix_us);
  } else {
    trouble_.push_back("incidents are kept in memory only: " + path_ + ": " + error.message());
    open_memory();
  }
  if (!db_) return;
  for (int i = newest.incidents_size(); i-- > 0;)
    if (!db_->insert(newest.incidents(i), limits_)) return;
  [[maybe_unused]] const Status continued = db_->continue_after(last_id);  // at worst, ids repeat
}

std::vector<std::string> IncidentStore::take_trouble() {
  return std::exchange(trouble_, {});
}

std::int64_t IncidentStore::insert(const v1::Incident& incident) {
  v1::Incident fresh = incident;
  fresh.clear_id();
  for (int attempt = 0; attempt < 2 && db_; ++attempt) {
    auto id = db_->insert(fresh, limits_);
    if (id) return *id;
    replace(id.error(), incident.time_unix_us());
  }
  return 0;
}

Status IncidentStore::update(const v1::Incident& incident) {
  if (!db_) return failure(ErrorKind::kNotFound, "incidents are not kept");
  auto done = db_->update(incident);
  if (done || done.error().kind() == ErrorKind::kNotFound) return done;
  replace(done.error(), incident.time_unix_us());
  return db_ ? db_->update(incident) : std::move(done);
}

void IncidentStore::close_orphans(const std::set<std::int64_t>& known) {
  if (!db_) return;
  auto open = db_->open_ones();
  if (!open) return trouble_.push_back(open.error().message());
  for (v1::Incident& incident : *open) {
    if (known.contains(incident.id())) continue;
    incident.set_outcome("unknown");
    incident.set_evidence(incident.evidence() + "; the supervisor died before it was over");
    [[maybe_unused]] const Status done = update(incident);  // a failure is in trouble()
  }
}

v1::ListIncidentsResponse IncidentStore::list(const Query& query) {
  if (!db_) return {};
  auto listed = db_->list(query);
  if (listed) return std::move(*listed);
  trouble_.push_back(listed.error().message());
  return {};
}

std::uint64_t IncidentStore::count(std::string_view component) const {
  return db_ ? db_->count(component) : 0;
}

}  // namespace bulkhead::supervisor
