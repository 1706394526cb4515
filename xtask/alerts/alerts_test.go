// Package alerts reads the chart's alerts as Prometheus does, and asks each of them about series as the operator shows
// them.
package alerts

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const (
	chart    = "../../charts/weir/monitoring/alerts.yaml"
	runbooks = "../../docs/runbooks.md"
)

func rules(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile(chart)
	if err != nil {
		t.Fatal(err)
	}
	groups, mistakes := rulefmt.Parse(text, false)
	for _, mistake := range mistakes {
		t.Error(mistake)
	}
	if t.Failed() {
		t.FailNow()
	}
	all := map[string]rulefmt.Rule{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			all[rule.Alert] = rule
		}
	}
	return all
}

// Series every half minute; all are looked at after an hour.
func TestWhenTheyFire(t *testing.T) {
	const job = `{namespace="shop",streamjob="orders"}`
	of := func(name, labels string) string {
		return name + `{namespace="shop",streamjob="orders",` + labels + `}`
	}
	now := time.Hour.Seconds()
	checkpoint := func(age time.Duration) string {
		return "weir_streamjob_last_checkpoint_timestamp_seconds" + job + " " + constant(now-age.Seconds()) + "\n" +
			"weir_streamjob_checkpoint_interval_seconds" + job + " " + constant(10) + "\n"
	}
	phase := func(name string) string { return of("weir_streamjob_phase", `phase="`+name+`"`) + " 1x120\n" }
	condition := func(name, value string) string {
		return of("weir_streamjob_condition", `type="`+name+`"`) + " " + value + "x120\n"
	}
	const leads = "weir_operator_leader 1x120\n"
	healthy := leads + phase("Running") + condition("Ready", "1") + condition("Degraded", "0") +
		checkpoint(20*time.Second) + "weir_streamjob_restarts" + job + " 2x120\n" +
		"weir_streamjob_checkpoints_failed_in_a_row" + job + " 0x120\n" +
		"weir_operator_reconciles_total 0+10x120\nweir_operator_reconcile_failures_total 0x120\n" +
		"weir_rocksdb_stopped_stores" + job + " 0x120\n" +
		of("weir_operator_bad_records_total", `operator="o"`) + " 7x120\n"

	for name, given := range map[string]struct {
		series string
		fire   []string
	}{
		"all is well":             {healthy, nil},
		"nobody leads":            {"weir_operator_leader 0x120\n", []string{"WeirOperatorDown"}},
		"no operator at all":      {"up 1x120\n", []string{"WeirOperatorDown"}},
		"looks fail":              {leads + "weir_operator_reconciles_total 0+10x120\nweir_operator_reconcile_failures_total 0+3x120\n", []string{"WeirOperatorFailing"}},
		"degraded and not ready":  {leads + phase("Failed") + condition("Ready", "0") + condition("Degraded", "1"), []string{"WeirJobDegraded"}},
		"not ready for long":      {leads + phase("Starting") + condition("Ready", "0") + condition("Degraded", "0"), []string{"WeirJobNotReady"}},
		"suspended is no alarm":   {leads + phase("Suspended") + condition("Ready", "0") + checkpoint(50*time.Minute), nil},
		"finished is no alarm":    {leads + phase("Finished") + condition("Ready", "1") + checkpoint(50*time.Minute), nil},
		"the checkpoint is old":   {leads + phase("Running") + checkpoint(10*time.Minute), []string{"WeirCheckpointTooOld"}},
		"old while it restarts":   {leads + phase("Restarting") + checkpoint(10*time.Minute), []string{"WeirCheckpointTooOld"}},
		"checkpoints fail":        {leads + "weir_streamjob_checkpoints_failed_in_a_row" + job + " 3x120\n", []string{"WeirCheckpointsFailing"}},
		"it restarts":             {leads + "weir_streamjob_restarts" + job + " 0x90 1+1x10 11x20\n", []string{"WeirRestartLoop"}},
		"a savepoint failed":      {leads + of("weir_savepoint_failed", `savepoint="s"`) + " 1x120\n", []string{"WeirSavepointFailed"}},
		"RocksDB stands":          {leads + "weir_rocksdb_stopped_stores" + job + " 1x120\n", []string{"WeirRocksdbStopped"}},
		"records are not decoded": {leads + of("weir_operator_bad_records_total", `operator="o"`) + " 0x110 3x10\n", []string{"WeirBadRecords"}},
	} {
		t.Run(name, func(t *testing.T) {
			storage := promqltest.LoadedStorage(t, "load 30s\n"+indented(given.series))
			defer storage.Close()
			engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
			var fired []string
			for alert, rule := range rules(t) {
				at := time.Unix(int64(now), 0)
				query, err := engine.NewInstantQuery(t.Context(), storage, nil, rule.Expr, at)
				if err != nil {
					t.Fatal(alert, err)
				}
				vector, err := query.Exec(t.Context()).Vector()
				if err != nil {
					t.Fatal(alert, err)
				}
				if len(vector) > 0 {
					fired = append(fired, alert)
				}
			}
			slices.Sort(fired)
			if !slices.Equal(fired, given.fire) {
				t.Errorf("%v fire, not %v", fired, given.fire)
			}
		})
	}
}

func TestEachHasItsRunbook(t *testing.T) {
	text, err := os.ReadFile(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	headings := regexp.MustCompile(`(?m)^## (Weir\w+)$`).FindAllStringSubmatch(string(text), -1)
	var documented []string
	for _, heading := range headings {
		documented = append(documented, heading[1])
	}
	for alert, rule := range rules(t) {
		if !slices.Contains(documented, alert) {
			t.Errorf("%s is not in docs/runbooks.md", alert)
		}
		if want := "RUNBOOKS#" + strings.ToLower(alert); rule.Annotations["runbook_url"] != want {
			t.Errorf("%s names the page %s, not %s", alert, rule.Annotations["runbook_url"], want)
		}
	}
	if len(documented) != len(rules(t)) {
		t.Errorf("docs/runbooks.md has pages for %v", documented)
	}
}
