#include "supervisor/incident_database.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <utility>

#include "supervisor/text.h"

namespace bulkhead::supervisor {

namespace {

constexpr std::size_t kMaxText = 4096;
constexpr int kMaxSteps = 64;
constexpr int kBusyTimeoutMs = 50;  // somebody looks at the file with another program

// Entry i leads from user_version i to i + 1. Never change one that was released: add another.
constexpr std::array<const char*, 1> kMigrations = {R"sql(
CREATE TABLE incident(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time_us INTEGER NOT NULL,
  component TEXT NOT NULL,
  incarnation INTEGER NOT NULL,
  finding TEXT NOT NULL,
  evidence TEXT NOT NULL,
  steps TEXT NOT NULL,           -- one a line
  deliberate INTEGER NOT NULL,
  fault TEXT NOT NULL,
  detection_us INTEGER NOT NULL,
  blackout_us INTEGER NOT NULL,
  replayed INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  lost INTEGER NOT NULL,
  blamed_client TEXT NOT NULL,
  outcome TEXT NOT NULL,
  next_step TEXT NOT NULL);
CREATE INDEX incident_by_component ON incident(component, id);
CREATE INDEX incident_by_time ON incident(time_us);
)sql"};

#define INCIDENT_COLUMNS                                                                         \
  "time_us, component, incarnation, finding, evidence, steps, deliberate, fault, detection_us, " \
  "blackout_us, replayed, refused, lost, blamed_client, outcome, next_step"
constexpr const char* kInsert =
    "INSERT INTO incident(" INCIDENT_COLUMNS ", id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
constexpr const char* kUpdate =
    "UPDATE incident SET (" INCIDENT_COLUMNS ") = (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) WHERE id = ?";
constexpr const char* kList =
    "SELECT " INCIDENT_COLUMNS ", id FROM incident WHERE id < ? ORDER BY id DESC LIMIT ?";
constexpr const char* kListOf =
    "SELECT " INCIDENT_COLUMNS ", id FROM incident WHERE id < ? AND component = ? ORDER BY id DESC LIMIT ?";
constexpr const char* kDeleteOld = "DELETE FROM incident WHERE time_us < ? RETURNING component";
constexpr const char* kDeleteFirst =
    "DELETE FROM incident WHERE id IN (SELECT id FROM incident ORDER BY id LIMIT ?) RETURNING component";

std::string joined_steps(const v1::Incident& incident) {
  std::string lines;
  for (int i = 0; i < std::min(incident.steps_size(), kMaxSteps); ++i) {
    std::string step(cut_text(incident.steps(i), kMaxText));
    std::replace(step.begin(), step.end(), '\n', ' ');
    lines += (i == 0 ? "" : "\n") + step;
  }
  return lines;
}

void split_steps(std::string_view lines, v1::Incident& into) {
  while (!lines.empty()) {
    const auto end = lines.find('\n');
    into.add_steps(std::string(lines.substr(0, end)));
    lines = end == std::string_view::npos ? std::string_view() : lines.substr(end + 1);
  }
}

}  // namespace

class IncidentStore::Database::Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &it_, nullptr);
  }
  ~Statement() { sqlite3_finalize(it_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  bool valid() const { return it_ != nullptr; }
  void restart() {
    sqlite3_reset(it_);
    sqlite3_clear_bindings(it_);
    next_ = 1;
  }
  Statement& bind(std::int64_t value) {
    sqlite3_bind_int64(it_, next_++, value);
    return *this;
  }
  // Counters are unsigned, SQLite's integers are not: the bits are kept.
  Statement& bind(std::uint64_t value) { return bind(static_cast<std::int64_t>(value)); }
  Statement& bind(std::string_view text) {
    text = cut_text(text, kMaxText);
    sqlite3_bind_text(it_, next_++, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind_long(const std::string& text) {
    sqlite3_bind_text(it_, next_++, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  int step() { return sqlite3_step(it_); }
  std::int64_t number(int column) const { return sqlite3_column_int64(it_, column); }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(it_, column));
    return bytes == nullptr ? std::string()
                            : std::string(bytes, static_cast<std::size_t>(sqlite3_column_bytes(it_, column)));
  }

  void bind_incident(const v1::Incident& incident) {
    bind(incident.time_unix_us()).bind(incident.component()).bind(incident.incarnation());
    bind(incident.finding()).bind(incident.evidence()).bind_long(joined_steps(incident));
    bind(std::int64_t{incident.deliberate() ? 1 : 0}).bind(incident.fault());
    bind(incident.detection_us()).bind(incident.blackout_us());
    bind(incident.replayed()).bind(incident.refused()).bind(incident.lost());
    bind(incident.blamed_client()).bind(incident.outcome()).bind(incident.next_step());
  }
  v1::Incident incident() const {
    v1::Incident incident;
    incident.set_time_unix_us(number(0));
    incident.set_component(text(1));
    incident.set_incarnation(static_cast<std::uint64_t>(number(2)));
    incident.set_finding(text(3));
    incident.set_evidence(text(4));
    split_steps(text(5), incident);
    incident.set_deliberate(number(6) != 0);
    incident.set_fault(text(7));
    incident.set_detection_us(number(8));
    incident.set_blackout_us(number(9));
    incident.set_replayed(static_cast<std::uint64_t>(number(10)));
    incident.set_refused(static_cast<std::uint64_t>(number(11)));
    incident.set_lost(static_cast<std::uint64_t>(number(12)));
    incident.set_blamed_client(text(13));
    incident.set_outcome(text(14));
    incident.set_next_step(text(15));
    incident.set_id(number(16));
    return incident;
  }

 private:
  sqlite3_stmt* it_ = nullptr;
  int next_ = 1;
};

Result<std::unique_ptr<IncidentStore::Database>> IncidentStore::Database::open(const std::string& file) {
  sqlite3* handle = nullptr;
  const int opened =
      sqlite3_open_v2(file.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  if (handle == nullptr) return failure(ErrorKind::kExhausted, "no memory for a database");
  std::unique_ptr<Database> database(new Database(handle));
  if (opened != SQLITE_OK) return std::unexpected(database->error("cannot open"));
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  for (const auto& step : {&Database::migrate, &Database::prepare, &Database::load_counts})
    if (auto done = (database.get()->*step)(); !done) return forward(std::move(done));
  return database;
}

IncidentStore::Database::Database(sqlite3* db) : db_(db) {}

IncidentStore::Database::~Database() {
  for (auto* statement : {&insert_, &update_, &list_, &list_of_, &delete_old_, &delete_first_})
    statement->reset();
  sqlite3_close(db_);
}

Error IncidentStore::Database::error(std::string_view what) const {
  const int code = sqlite3_errcode(db_) & 0xff;
  const bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_SCHEMA ||
                       code == SQLITE_ERROR || code == SQLITE_MISMATCH || code == SQLITE_CONSTRAINT;
  return {damaged ? ErrorKind::kInvalid : ErrorKind::kFailed, std::string(what) + ": " + sqlite3_errmsg(db_)};
}

Status IncidentStore::Database::run(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return std::unexpected(error("cannot use the database"));
}

// WAL with synchronous=NORMAL: a commit is a write without a flush, so it does not hold up the event loop; a
// power cut may cost the last incidents, never the file.
Status IncidentStore::Database::migrate() {
  if (auto done = run("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON"); !done)
    return done;
  Statement version(db_, "PRAGMA user_version");
  if (!version.valid() || version.step() != SQLITE_ROW)
    return std::unexpected(error("cannot read the schema version"));
  const std::int64_t found = version.number(0);
  version.restart();
  const auto newest = static_cast<std::int64_t>(kMigrations.size());
  if (found < 0 || found > newest) {
    return failure(ErrorKind::kInvalid, "has schema version " + std::to_string(found) +
                                            ", this program knows " + std::to_string(newest));
  }
  for (std::int64_t i = found; i < newest; ++i) {
    const std::string script = std::string("BEGIN IMMEDIATE;") + kMigrations[static_cast<std::size_t>(i)] +
                               "PRAGMA user_version=" + std::to_string(i + 1) + "; COMMIT";
    if (auto done = run(script.c_str()); !done) return done;
  }
  return {};
}

Status IncidentStore::Database::prepare() {
  for (const auto& [statement, sql] : {std::pair(&insert_, kInsert),
                                       {&update_, kUpdate},
                                       {&list_, kList},
                                       {&list_of_, kListOf},
                                       {&delete_old_, kDeleteOld},
                                       {&delete_first_, kDeleteFirst}}) {
    *statement = std::make_unique<Statement>(db_, sql);
    if (!(*statement)->valid()) return std::unexpected(error("cannot prepare a statement"));
  }
  return {};
}

Status IncidentStore::Database::load_counts() {
  Statement statement(db_, "SELECT component, count(*), max(id) FROM incident GROUP BY component");
  if (!statement.valid()) return std::unexpected(error("cannot count incidents"));
  int result = SQLITE_ROW;
  while ((result = statement.step()) == SQLITE_ROW) {
    const auto count = static_cast<std::uint64_t>(statement.number(1));
    counts_[statement.text(0)] = count;
    total_ += count;
    last_id_ = std::max(last_id_, statement.number(2));
  }
  if (result != SQLITE_DONE) return std::unexpected(error("cannot count incidents"));
  return {};
}

Result<std::int64_t> IncidentStore::Database::insert(const v1::Incident& incident, const Limits& limits) {
  if (auto begun = run("BEGIN IMMEDIATE"); !begun) return forward(std::move(begun));
  insert_->restart();
  insert_->bind_incident(incident);
  if (incident.id() != 0) insert_->bind(incident.id());
  const int result = insert_->step();
  Status done;
  if (result != SQLITE_DONE) done = std::unexpected(error("cannot store an incident"));
  insert_->restart();
  const std::int64_t id = sqlite3_last_insert_rowid(db_);
  if (done) {
    ++counts_[std::string(cut_text(incident.component(), kMaxText))];
    ++total_;
    done = prune(limits, incident.time_unix_us());
  }
  if (done) done = run("COMMIT");
  if (!done) {
    [[maybe_unused]] const Status undone = run("ROLLBACK");  // `done` is what went wrong
    return forward(std::move(done));
  }
  last_id_ = std::max(last_id_, id);
  return id;
}

Status IncidentStore::Database::prune(const Limits& limits, std::int64_t now_unix_us) {
  delete_old_->restart();
  delete_old_->bind(now_unix_us - limits.max_age_us);
  if (auto done = delete_counted(*delete_old_); !done) return done;
  if (total_ <= limits.max_count) return {};
  delete_first_->restart();
  delete_first_->bind(total_ - limits.max_count);
  return delete_counted(*delete_first_);
}

Status IncidentStore::Database::delete_counted(Statement& statement) {
  int result = SQLITE_ROW;
  while ((result = statement.step()) == SQLITE_ROW) {
    const auto found = counts_.find(statement.text(0));
    if (found != counts_.end() && --found->second == 0) counts_.erase(found);
    --total_;
  }
  Status done;
  if (result != SQLITE_DONE) done = std::unexpected(error("cannot delete old incidents"));
  statement.restart();
  return done;
}

Status IncidentStore::Database::update(const v1::Incident& incident) {
  update_->restart();
  update_->bind_incident(incident);
  update_->bind(incident.id());
  const int result = update_->step();
  Status done;
  if (result != SQLITE_DONE) done = std::unexpected(error("cannot update an incident"));
  update_->restart();
  if (!done) return done;
  if (sqlite3_changes(db_) > 0) return {};
  return failure(ErrorKind::kNotFound, "there is no incident " + std::to_string(incident.id()));
}

Result<v1::ListIncidentsResponse> IncidentStore::Database::list(const Query& query) {
  constexpr std::uint32_t kUsual = 50;
  constexpr std::uint32_t kMost = 500;
  const std::int64_t limit = query.limit == 0 ? kUsual : std::min(query.limit, kMost);
  Statement& statement = query.component.empty() ? *list_ : *list_of_;
  statement.restart();
  statement.bind(query.before_id > 0 ? query.before_id : INT64_MAX);
  if (!query.component.empty()) statement.bind(std::string_view(query.component));
  statement.bind(limit + 1);  // one more tells whether there are more
  v1::ListIncidentsResponse response;
  int result = SQLITE_ROW;
  while ((result = statement.step()) == SQLITE_ROW) {
    if (response.incidents_size() == limit) {
      response.set_next_before_id(response.incidents(response.incidents_size() - 1).id());
      break;
    }
    *response.add_incidents() = statement.incident();
  }
  if (result != SQLITE_DONE && result != SQLITE_ROW) {
    auto failed = std::unexpected(error("cannot read incidents"));
    statement.restart();
    return failed;
  }
  statement.restart();
  return response;
}

Result<std::vector<v1::Incident>> IncidentStore::Database::open_ones() {
  Statement statement(db_, "SELECT " INCIDENT_COLUMNS ", id FROM incident WHERE outcome = 'open'");
  if (!statement.valid()) return std::unexpected(error("cannot read incidents"));
  std::vector<v1::Incident> open;
  int result = SQLITE_ROW;
  while ((result = statement.step()) == SQLITE_ROW) open.push_back(statement.incident());
  if (result != SQLITE_DONE) return std::unexpected(error("cannot read incidents"));
  return open;
}

std::uint64_t IncidentStore::Database::count(std::string_view component) const {
  if (component.empty()) return total_;
  const auto found = counts_.find(component);
  return found == counts_.end() ? 0 : found->second;
}

Status IncidentStore::Database::continue_after(std::int64_t id) {
  last_id_ = std::max(last_id_, id);
  const std::string sql = "INSERT INTO sqlite_sequence(name, seq) SELECT 'incident', " + std::to_string(id) +
                          " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'incident')";
  return run(sql.c_str());
}

}  // namespace bulkhead::supervisor
