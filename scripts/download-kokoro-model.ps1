# Twin of download-kokoro-model.sh: installs Kokoro, the model that speaks; --list shows its voices.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
$python = if (Test-Path '.venv/Scripts') { '.venv/Scripts/python.exe' } else { '.venv/bin/python' }
if (-not (Test-Path $python)) {
    [Console]::Error.WriteLine('The environment is missing: run scripts/setup.ps1 first.')
    exit 1
}
if ($args.Count -and $args[0] -eq '--list') {
    & $python -m trio_stt models voices
} else {
    & $python -m trio_stt models install kokoro @args
}
exit $LASTEXITCODE
