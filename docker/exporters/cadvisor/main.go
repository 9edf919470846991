// Command cadvisor measures the containers of this machine with cAdvisor's own library and shows the figures
// to Prometheus on :8080/metrics.
//
// cAdvisor's program asks Docker's socket what each container is called. Who may ask that socket may ask for
// everything, so this one reads the same from the files that Docker keeps of each container, mounted read-only.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/google/cadvisor/cache/memory"
	"github.com/google/cadvisor/container"
	v1 "github.com/google/cadvisor/info/v1"
	v2 "github.com/google/cadvisor/info/v2"
	"github.com/google/cadvisor/manager"
	"github.com/google/cadvisor/metrics"
	"github.com/google/cadvisor/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"
)

// Where Docker puts control groups: under its cgroupfs driver and under systemd's.
var groups = []string{"/docker/", "/system.slice/docker-"}

var (
	id       = regexp.MustCompile(`[0-9a-f]{64}`)
	measured = container.MetricSet{
		container.CpuUsageMetrics:    {},
		container.MemoryUsageMetrics: {},
	}
	listen   = flag.String("listen", ":8080", "address to listen on")
	interval = flag.Duration("interval", 30*time.Second, "pause between two looks at a container")
	docker   = flag.String("containers", "/var/lib/docker/containers", "folder of Docker's files on containers")
)

func main() {
	flag.Parse()
	steady := false
	containers, err := manager.New(
		memory.New(2*time.Minute, nil),
		sysfs.NewRealSysFs(),
		manager.HousekeepingConfig{Interval: interval, AllowDynamic: &steady},
		measured,
		http.DefaultClient,
		groups,
		nil, "", 0,
	)
	if err != nil {
		log.Fatalf("control groups cannot be read: %v; is /sys mounted?", err)
	}
	if err := containers.Start(); err != nil {
		log.Fatalf("containers cannot be watched: %v; is /sys mounted?", err)
	}
	registry := prometheus.NewRegistry()
	every := v2.RequestOptions{IdType: v2.TypeName, Count: 1, Recursive: true}
	registry.MustRegister(
		metrics.NewPrometheusCollector(containers, labels, measured, clock.RealClock{}, every),
		kills{containers, every},
	)
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	log.Fatal(http.ListenAndServe(*listen, nil))
}

// kills counts the processes that were killed because their container was at its limit of memory. cAdvisor
// reads these from the kernel's log, which takes a capability; the control group has counted them, too.
type kills struct {
	containers manager.Manager
	every      v2.RequestOptions
}

var (
	names    = []string{metrics.LabelID, metrics.LabelName, metrics.LabelImage, "project", "service"}
	killed   = prometheus.NewDesc("container_oom_kills_total", "Processes killed at the limit of memory", names, nil)
	oomKills = regexp.MustCompile(`(?m)^oom_kill (\d+)$`)
)

func (k kills) Describe(out chan<- *prometheus.Desc) { out <- killed }

func (k kills) Collect(out chan<- prometheus.Metric) {
	// One that has just gone is an error, but the others are there all the same.
	found, _ := k.containers.GetRequestedContainersInfo("/", k.every)
	for group, info := range found {
		for _, path := range []string{"memory" + group + "/memory.oom_control", group + "/memory.events"} {
			text, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", path)) // Of control groups 1 and 2.
			if counted := oomKills.FindSubmatch(text); counted != nil {
				count, _ := strconv.ParseFloat(string(counted[1]), 64)
				named := labels(info)
				values := make([]string, len(names))
				for i, name := range names {
					values[i] = named[name]
				}
				out <- prometheus.MustNewConstMetric(killed, prometheus.CounterValue, count, values...)
			}
		}
	}
}

// labels names a container as Docker and compose do; what Docker does not know has only its control group.
func labels(seen *v1.ContainerInfo) map[string]string {
	named := map[string]string{metrics.LabelID: seen.Name}
	var known struct {
		Name   string
		Config struct {
			Image  string
			Labels map[string]string
		}
	}
	text, err := os.ReadFile(filepath.Join(*docker, id.FindString(seen.Name), "config.v2.json"))
	if err != nil || json.Unmarshal(text, &known) != nil || len(known.Name) == 0 {
		return named
	}
	named[metrics.LabelName] = known.Name[1:] // It begins with a slash.
	named[metrics.LabelImage] = known.Config.Image
	named["project"] = known.Config.Labels["com.docker.compose.project"]
	named["service"] = known.Config.Labels["com.docker.compose.service"]
	return named
}
