{{/* What values.schema.json cannot say, each as one sentence: what, where, the value, the fix. Takes $. */}}
{{- define "berth.check" -}}
{{- /* What --set 'vmlist={}' means to Helm: a list of one empty text. */ -}}
{{- if and (kindIs "slice" .Values.vmlist) (compact .Values.vmlist) -}}
{{- fail (printf "vmlist is a list (%s), and must be a map from a VM's name to its settings, such as {cirros: {enabled: true}}" (toJson .Values.vmlist)) -}}
{{- end -}}
{{- if not .Values.device_plugin.resources.kvm -}}
{{- fail "device_plugin.resources.kvm is empty: name the resource under which /dev/kvm is offered, such as berth.dev/kvm" -}}
{{- end -}}
{{- $targets := dict -}}
{{- $services := dict -}}
{{- range $name, $vm := include "berth.vms" . | fromJson -}}
{{- $c := dict "root" $ "name" $name "vm" $vm "at" (printf "vmlist.%s" $name) -}}
{{- include "berth.checkName" $c -}}
{{- include "berth.checkMemory" $c -}}
{{- include "berth.checkRootfs" $c -}}
{{- include "berth.checkDisks" $c -}}
{{- include "berth.checkNetwork" $c -}}
{{- include "berth.checkCloudconfig" $c -}}
{{- if include "berth.cached" $c -}}
{{- $target := include "berth.target" $c -}}
{{- $source := get $targets $target -}}
{{- if and $source (ne $source $vm.vmconfig.rootfs.sourceurl) -}}
{{- fail (printf "%s.vmconfig.rootfs.localtarget: two VMs call different images %q in the image cache; give one of them another localtarget" $c.at $target) -}}
{{- end -}}
{{- $_ := set $targets $target $vm.vmconfig.rootfs.sourceurl -}}
{{- end -}}
{{- $_ := set $services (include "berth.full" $c) $name -}}
{{- end -}}
{{- range $name, $vm := include "berth.vms" . | fromJson -}}
{{- $service := printf "%s-%s-ports" $.Release.Name $name -}}
{{- if and $vm.netconfig.service.enabled (hasKey $services $service) -}}
{{- fail (printf "vmlist.%s-ports: the Service of the ports of the VM %q has this name; call the VM otherwise" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "berth.checkName" -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" .name) -}}
{{- fail (printf "vmlist has a VM called %q: a name is made of a-z, 0-9 and -, and begins and ends with a letter or digit" .name) -}}
{{- end -}}
{{- $full := include "berth.full" . -}}
{{- if gt (len $full) 52 -}}
{{- fail (printf "%s: %q, the release and the VM's name, has %d characters, and Kubernetes has room for 52; give either a shorter name" .at $full (len $full)) -}}
{{- end -}}
{{- end }}

{{- define "berth.checkMemory" -}}
{{- $cpu := .vm.vmconfig.cpu -}}
{{- $page := get (dict "2Mi" 2 "1Gi" 1024) ($cpu.hugepages | default "none") | default 1 | int64 -}}
{{- $ram := int64 $cpu.ram_mb -}}
{{- $rest := mod $ram $page -}}
{{- if $rest -}}
{{- fail (printf "%s.vmconfig.cpu.ram_mb is %d, and hugepages are %s: give a multiple of %d, such as %d" .at $ram $cpu.hugepages $page (add (sub $ram $rest) $page)) -}}
{{- end -}}
{{- end }}

{{- define "berth.checkRootfs" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
{{- $at := printf "%s.vmconfig.rootfs" .at -}}
{{- $elsewhere := false -}}
{{- range .vm.pod.env }}{{ if eq .name "IMG_SOURCE" }}{{ $elsewhere = true }}{{ end }}{{ end -}}
{{- if not (or $rootfs.sourceurl $rootfs.localtarget $rootfs.block_claim $elsewhere) -}}
{{- fail (printf "%s.sourceurl is missing: give the http or https URL of a qcow2 or raw image, or a path in the container; or give block_claim" $at) -}}
{{- end -}}
{{- if and $rootfs.sourceurl $rootfs.block_claim -}}
{{- fail (printf "%s has both sourceurl and block_claim (%q): the root disk is the one or the other" $at $rootfs.block_claim) -}}
{{- end -}}
{{- if and $rootfs.sourceurl (not (regexMatch "^(https?://.|/.)" $rootfs.sourceurl)) -}}
{{- fail (printf "%s.sourceurl is %q: it must begin with http:// or https://, or be an absolute path in the container" $at $rootfs.sourceurl) -}}
{{- end -}}
{{- if or (contains "/" $rootfs.localtarget) (hasPrefix "." $rootfs.localtarget) -}}
{{- fail (printf "%s.localtarget is %q: it must be the name of a file, without / and no dot at its beginning" $at $rootfs.localtarget) -}}
{{- end -}}
{{- if and (not $rootfs.block_claim) (eq (include "berth.target" .) (printf "%s.qcow2" .name)) (not (include "berth.cached" .)) -}}
{{- fail (printf "%s.localtarget is %q, which is what the VM's own disk is called; give the base another localtarget" $at (include "berth.target" .)) -}}
{{- end -}}
{{- end }}

{{- define "berth.checkDisks" -}}
{{- $at := printf "%s.vmconfig.disks" .at -}}
{{- if gt (len .vm.vmconfig.disks) 24 -}}
{{- fail (printf "%s has %d disks, and a VM has room for 24" $at (len .vm.vmconfig.disks)) -}}
{{- end -}}
{{- range $disk, $settings := .vm.vmconfig.disks -}}
{{- if or (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $disk)) (gt (len $disk) 20) -}}
{{- fail (printf "%s has a disk called %q: a name is made of a-z, 0-9 and -, and has up to 20 characters" $at $disk) -}}
{{- end -}}
{{- if not (or $settings.size $settings.existing) -}}
{{- fail (printf "%s.%s has neither size nor existing: give the size of a new claim, such as 20Gi, or the name of one that exists" $at $disk) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "berth.checkNetwork" -}}
{{- $net := .vm.netconfig -}}
{{- $at := printf "%s.netconfig" .at -}}
{{- $ports := (include "berth.ports" . | fromJson).list -}}
{{- $seen := dict -}}
{{- range $port := $ports -}}
{{- if not (and (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $port.name) (regexMatch "[a-z]" $port.name) (le (len $port.name) 15)) -}}
{{- fail (printf "%s.ports has a port called %q: a name is made of a-z, 0-9 and -, has a letter, and up to 15 characters" $at $port.name) -}}
{{- end -}}
{{- if not $port.port -}}
{{- fail (printf "%s.ports.%s.port is missing: give the port's number" $at $port.name) -}}
{{- end -}}
{{- $key := printf "%d/%s" (int $port.port) $port.protocol -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "%s.ports.%s is %s, and so is %s: name a port once" $at $port.name $key (get $seen $key)) -}}
{{- end -}}
{{- $_ := set $seen $key $port.name -}}
{{- end -}}
{{- if and $net.service.enabled (not $ports) -}}
{{- fail (printf "%s.service.enabled is true, and netconfig.ports is empty: name the ports that the Service has" $at) -}}
{{- end -}}
{{- if and $net.network_policy.enabled (eq $net.mode "none") -}}
{{- fail (printf "%s.network_policy.enabled is true with mode none: there is no traffic to limit; switch it off" $at) -}}
{{- end -}}
{{- $probed := or $net.readinessTcpProbe (hasPrefix "tcp:" $net.ready) -}}
{{- if and (eq $net.mode "none") $probed -}}
{{- fail (printf "%s: a TCP port tells readiness, and mode is none: set readinessTcpProbe to 0 and ready to running" $at) -}}
{{- end -}}
{{- if and $net.readinessTcpProbe .vm.vnc.enabled (eq (int $net.readinessTcpProbe) 5900) -}}
{{- fail (printf "%s.readinessTcpProbe is 5900, where Berth itself listens: name a port of the guest, or set vnc.enabled to false" $at) -}}
{{- end -}}
{{- if ne (empty $net.address) (empty $net.gateway) -}}
{{- fail (printf "%s has one of address (%q) and gateway (%q): give both or none" $at $net.address $net.gateway) -}}
{{- end -}}
{{- end }}

{{- define "berth.checkCloudconfig" -}}
{{- $cloud := .vm.cloudconfig -}}
{{- $documents := include "berth.documents" . | fromJson -}}
{{- if and $cloud.existing.name $documents -}}
{{- fail (printf "%s.cloudconfig has existing.name (%q) and also %s: the documents come from the one or the other" .at $cloud.existing.name (keys $documents | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $cloud.existing.name (not $cloud.existing.keys) -}}
{{- fail (printf "%s.cloudconfig.existing.keys is empty: say which of metadata, userdata, networkdata, vendordata %q has" .at $cloud.existing.name) -}}
{{- end -}}
{{- if and .vm.vnc.password .vm.vnc.existing_secret -}}
{{- fail (printf "%s.vnc has both password and existing_secret (%q): give one" .at .vm.vnc.existing_secret) -}}
{{- end -}}
{{- end }}
