// Formatting and parsing: units, tables, JSON, views.
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/json.h"
#include "cli/table.h"
#include "cli/units.h"
#include "cli/views.h"

namespace bulkhead::cli {
namespace {

using std::chrono::milliseconds;

TEST(UnitsTest, ParsesDurations) {
  EXPECT_EQ(parse_duration("250ms"), milliseconds(250));
  EXPECT_EQ(parse_duration("30s"), milliseconds(30'000));
  EXPECT_EQ(parse_duration("1.5s"), milliseconds(1500));
  EXPECT_EQ(parse_duration("5m"), milliseconds(300'000));
  EXPECT_EQ(parse_duration("1h"), milliseconds(3'600'000));
  EXPECT_EQ(parse_duration("24h"), milliseconds(86'400'000));
  EXPECT_EQ(parse_duration("0s"), milliseconds(0));
}

TEST(UnitsTest, RefusesWhatIsNoDuration) {
  for (const char* text :
       {"", "5", "s", "-5s", "5 s", "5sec", "1e3s", "nan s", "inf", "25h", "5s ", " 5s", "0x5s"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

TEST(UnitsTest, WritesLatencies) {
  EXPECT_EQ(latency_text(-1), "unknown");
  EXPECT_EQ(latency_text(0), "0.00 ms");
  EXPECT_EQ(latency_text(310), "0.31 ms");
  EXPECT_EQ(latency_text(52'400), "52 ms");
  EXPECT_EQ(latency_text(4'250'000), "4.2 s");
}

TEST(UnitsTest, WritesAgesAndSizes) {
  EXPECT_EQ(age_text(milliseconds(-5000)), "0s");  // clocks differ a little
  EXPECT_EQ(age_text(milliseconds(59'999)), "59s");
  EXPECT_EQ(age_text(milliseconds(60'000)), "1m");
  EXPECT_EQ(age_text(std::chrono::hours(47)), "47h");
  EXPECT_EQ(age_text(std::chrono::hours(49)), "2d");
  EXPECT_EQ(bytes_text(0), "0");
  EXPECT_EQ(bytes_text(512), "512 B");
  EXPECT_EQ(bytes_text(1024), "1 KiB");
  EXPECT_EQ(bytes_text(1536UL * 1024), "1.5 MiB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "16 EiB");
}

TEST(UnitsTest, WritesLocalTime) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  EXPECT_EQ(time_text(1'700'000'000'123'456), "2023-11-14 22:13:20.123");
  EXPECT_EQ(clock_text(1'700'000'000'007'000), "22:13:20.007");
}

TEST(TableTest, AlignsColumns) {
  Table table({{"NAME"}, {"PID", Table::Align::kRight}, {"CAUSE"}});
  table.add({{"xenstore"}, {"7"}, {"ready"}});
  table.add({{"net"}, {"12345"}, {""}});
  EXPECT_EQ(table.render({}),
            "NAME        PID  CAUSE\n"
            "xenstore      7  ready\n"
            "net       12345  -\n");
}

TEST(TableTest, TheLastColumnGivesWayToTheTerminal) {
  Table table({{"NAME"}, {"CAUSE"}});
  table.add({{"xenstore"}, {"the active instance was killed by signal 9"}});
  EXPECT_EQ(table.render({.colour = false, .terminal = true, .width = 24}),
            "NAME      CAUSE\n"
            "xenstore  the active ...\n");
  EXPECT_NE(table.render({.colour = false, .terminal = true, .width = 5}).find("the a...\n"),
            std::string::npos);
}

TEST(TableTest, CountsCharactersNotBytes) {
  Table table({{"N"}, {"X"}});
  table.add({{"größe"}, {"1"}});
  table.add({{"abcde"}, {"2"}});
  EXPECT_EQ(table.render({}), "N      X\ngröße  1\nabcde  2\n");
}

TEST(TableTest, ColoursOnlyWhenAsked) {
  Table table({{"STATE"}, {"X"}});
  table.add({{"serving", Style::kGood}, {"1"}});
  EXPECT_EQ(table.render({}).find('\x1b'), std::string::npos);
  EXPECT_NE(table.render({.colour = true}).find("\x1b[32mserving\x1b[0m  1\n"), std::string::npos);
}

TEST(TableTest, NothingAGuestNamesReachesTheTerminalRaw) {
  EXPECT_EQ(printable("a\x1b[2Jb\n\t\x7f"), "a?[2Jb???");
  EXPECT_EQ(printable("\xc2\x9b"), "?");     // C1 control: CSI
  EXPECT_EQ(printable("x\xff\xc3"), "x??");  // not UTF-8
  EXPECT_EQ(printable("größe €"), "größe €");
  EXPECT_EQ(fitted("größe und mehr", 8), "größe...");
  EXPECT_EQ(fitted("abc", 2), "..");
}

v1::Component sample() {
  v1::Component component;
  component.set_name("xenstore");
  component.set_state(v1::STATE_SERVING);
  component.set_wanted(true);
  component.set_running(true);
  component.set_ready(true);
  component.set_healthy(true);
  component.set_incarnation(7);
  component.set_active_pid(101);
  component.set_standby_pid(102);
  component.set_standby_ready(true);
  component.set_cause("standby took over: \"killed\\by\" signal 9\n");
  component.set_since_unix_ms(1'700'000'000'000);
  component.add_depends_on("a");
  component.mutable_resources()->set_cpu_fraction(0.25);
  component.mutable_resources()->set_rss_bytes(1UL << 40);
  return component;
}

TEST(JsonTest, PrintsProtoFieldNamesAndNumbers) {
  v1::ListComponentsResponse list;
  *list.add_components() = sample();
  const std::string json = to_json(list, JsonLayout::kOneLine);
  EXPECT_TRUE(json.starts_with(R"({"components":[{"name":"xenstore","state":"STATE_SERVING","wanted":true,)"))
      << json;
  EXPECT_NE(json.find(R"("incarnation":7,"active_pid":101,"standby_pid":102,)"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("restarts":0)"), std::string::npos) << "fields that are zero are printed";
  EXPECT_EQ(json.find('\n'), std::string::npos);
}

TEST(JsonTest, ProtobufsOwnParserReadsItBack) {
  v1::ListComponentsResponse list;
  *list.add_components() = sample();
  list.add_components();
  for (const JsonLayout layout : {JsonLayout::kOneLine, JsonLayout::kIndented}) {
    v1::ListComponentsResponse parsed;
    ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(to_json(list, layout), &parsed).ok());
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(list, parsed));
  }
}

TEST(JsonTest, EmptyMessagesAndLists) {
  EXPECT_EQ(to_json(v1::GetVersionRequest(), JsonLayout::kIndented), "{}");
  EXPECT_EQ(to_json(v1::ListComponentsResponse(), JsonLayout::kIndented), "{\n  \"components\": []\n}");
}

TEST(JsonTest, EnumValuesOfANewerSupervisor) {
  v1::Component component;
  component.set_state(static_cast<v1::State>(77));
  EXPECT_NE(to_json(component, JsonLayout::kOneLine).find(R"("state":77)"), std::string::npos);
}

TEST(ViewsTest, StatesAreWords) {
  EXPECT_EQ(state_text(v1::STATE_SERVING), "serving");
  EXPECT_EQ(state_text(v1::STATE_BACKOFF), "backoff");
  EXPECT_EQ(state_text(static_cast<v1::State>(77)), "state 77");
}

TEST(ViewsTest, StatusShowsEachFactAndCallsForHelp) {
  v1::ListComponentsResponse list;
  *list.add_components() = sample();
  EXPECT_EQ(components_view(list, 1'700'000'060'000, {}),
            "NAME      STATE    HEALTH   INCARNATION  ACTIVE  STANDBY  RESTARTS  INCIDENTS  SINCE  CAUSE\n"
            "xenstore  serving  healthy            7     101      102         0          0     1m  standby "
            "took over: "
            "\"killed\\by\" signal 9?\n");
  list.mutable_components(0)->set_state(v1::STATE_ISOLATED);
  EXPECT_NE(components_view(list, 0, {}).find("xenstore is stuck and needs a human"), std::string::npos);
  EXPECT_EQ(components_view(v1::ListComponentsResponse(), 0, {}), "nothing is supervised\n");
}

TEST(ViewsTest, OneComponentTellsItsProgramsAndDates) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  v1::Component component = sample();
  const std::int64_t now = 1'700'000'000'000;
  EXPECT_EQ(component_view(component, now, {}).find("kept"), std::string::npos);
  component.mutable_active_program()->set_path("/usr/libexec/bulkhead/new");
  component.mutable_active_program()->set_version("2");
  component.mutable_active_program()->set_id("0a1b2c3d-77");
  *component.mutable_kept_program() = component.active_program();
  component.mutable_kept_program()->clear_version();
  component.set_probation_until_unix_ms(now + 61'000);
  component.set_rejuvenation_due_unix_ms(now - 1);
  component.mutable_resources()->set_private_bytes(4096);
  const std::string text = component_view(component, now, {});
  EXPECT_NE(text.find("active runs   /usr/libexec/bulkhead/new  version 2  id 0a1b2c3d-77\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("kept          /usr/libexec/bulkhead/new  id 0a1b2c3d-77\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("on probation  2023-11-14 22:14:21.000 (in 1m)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("rejuvenation  2023-11-14 22:13:19.999 (due)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("1 TiB, 4 KiB of it private\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("standby runs"), std::string::npos);
}

TEST(ViewsTest, AnIncidentTellsItsStory) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  v1::Incident incident;
  incident.set_id(42);
  incident.set_time_unix_us(1'700'000'000'123'000);
  incident.set_component("xenstore");
  incident.set_incarnation(7);
  incident.set_finding("exit");
  incident.set_evidence("killed by signal 9");
  incident.add_steps("hand over");
  incident.add_steps("rebuild");
  incident.set_deliberate(true);
  incident.set_fault("crash");
  incident.set_detection_us(110);
  incident.set_blackout_us(310);
  incident.set_replayed(3);
  incident.set_outcome("recovered");
  incident.set_next_step("hand over (9 of 10 left)");
  EXPECT_EQ(incident_view(incident, {}),
            "#42  2023-11-14 22:13:20.123  xenstore incarnation 7  recovered  (deliberate)\n"
            "    what happened    exit: killed by signal 9\n"
            "    noticed after    0.11 ms\n"
            "    not serving for  0.31 ms\n"
            "    done about it    hand over, then rebuild\n"
            "    requests         3 replayed, 0 refused, 0 lost\n"
            "    deliberate       yes, fault crash\n"
            "    if it recurs     hand over (9 of 10 left)\n");
}

TEST(ViewsTest, AnOpenIncidentDoesNotClaimNumbers) {
  v1::Incident incident;
  incident.set_detection_us(-1);
  incident.set_blackout_us(-1);
  incident.set_outcome("open");
  const std::string text = incident_view(incident, {});
  EXPECT_NE(text.find("unknown, or still not serving"), std::string::npos);
  EXPECT_EQ(text.find("replayed"), std::string::npos);
}

}  // namespace
}  // namespace bulkhead::cli
