// Package argocd runs the chart's Lua as Argo CD does: in gopher-lua, with the object in the global `obj` and few
// libraries. It is not Argo CD itself.
package argocd

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

const scripts = "../../charts/weir/argocd"

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, field := range value {
			table.RawSetString(key, toLua(state, field))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case bool:
		return lua.LBool(value)
	}
	return lua.LNil
}

// Runs a script on an object and returns its table. Actions have `os.date` beside what health checks have.
func run(t *testing.T, script, object string) *lua.LTable {
	t.Helper()
	var parsed map[string]any
	if err := yaml.Unmarshal([]byte(object), &parsed); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(scripts, script))
	if err != nil {
		t.Fatal(err)
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	libraries := map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString,
	}
	if filepath.Dir(script) == "actions" {
		libraries[lua.OsLibName] = lua.OpenOs
	}
	for name, open := range libraries {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", toLua(state, parsed))
	if err := state.DoString(string(text)); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("%s returns no table", script)
	}
	return table
}

func TestHealth(t *testing.T) {
	seen := "metadata: {generation: 2}\nstatus: {observedGeneration: 2, conditions: ["
	for _, row := range []struct{ name, object, status, message string }{
		{"new", "metadata: {generation: 1}", "Progressing", "not seen"},
		{"an older spec was seen", "metadata: {generation: 2}\nstatus: {observedGeneration: 1, conditions: [{type: Ready, status: 'True'}]}", "Progressing", "not seen"},
		{"no conditions yet", "metadata: {generation: 2}\nstatus: {observedGeneration: 2}", "Progressing", ""},
		{"runs", seen + "{type: Ready, status: 'True', message: the job runs}]}", "Healthy", "the job runs"},
		{"starts", seen + "{type: Ready, status: 'False', message: run 1 is started}]}", "Progressing", "run 1"},
		{"runs another version", seen + "{type: Ready, status: 'False'}, {type: Degraded, status: 'True', reason: PreflightRefused, message: key}]}", "Degraded", "PreflightRefused: key"},
		{"stands still", seen + "{type: Ready, status: 'False'}, {type: Suspended, status: 'True'}]}", "Suspended", "spec"},
		{"waits for a person", seen + "{type: Ready, status: 'True'}, {type: Progressing, status: 'False', reason: AwaitingApproval, message: generation 2 waits}]}", "Suspended", "generation 2"},
		{"goes", "metadata: {generation: 2, deletionTimestamp: now}\nstatus: {observedGeneration: 2, conditions: [{type: Ready, status: 'True'}]}", "Progressing", "last checkpoint"},
	} {
		health := run(t, "health.lua", row.object)
		status, message := health.RawGetString("status").String(), health.RawGetString("message").String()
		if status != row.status || !regexp.MustCompile(row.message).MatchString(message) {
			t.Errorf("%s: %s, %q; expected %s, %q", row.name, status, message, row.status, row.message)
		}
	}
}

func TestActions(t *testing.T) {
	running := "metadata: {generation: 3}\nspec: {state: Running}"
	field := func(table *lua.LTable, path ...string) string {
		for _, name := range path[:len(path)-1] {
			table = table.RawGetString(name).(*lua.LTable)
		}
		return table.RawGetString(path[len(path)-1]).String()
	}
	for _, row := range []struct {
		script, expected string
		path             []string
	}{
		{"actions/suspend.lua", "^Suspended$", []string{"spec", "state"}},
		{"actions/resume.lua", "^Running$", []string{"spec", "state"}},
		{"actions/restart.lua", `^\d{4}-\d\d-\d\dT`, []string{"metadata", "annotations", "weir.dev/restart"}},
		{"actions/approve.lua", "^3$", []string{"metadata", "annotations", "weir.dev/approve"}},
	} {
		if value := field(run(t, row.script, running), row.path...); !regexp.MustCompile(row.expected).MatchString(value) {
			t.Errorf("%s: %q", row.script, value)
		}
	}
	offered := run(t, "actions/discovery.lua", running)
	for action, disabled := range map[string]string{"suspend": "false", "resume": "true", "restart": "false", "approve": "true"} {
		if value := field(offered, action, "disabled"); value != disabled {
			t.Errorf("%s: disabled is %s", action, value)
		}
	}
}
